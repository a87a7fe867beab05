"""Timing on a device that works behind the host's back: a simulated one, with a queue of late work per device."""

from types import SimpleNamespace

import pytest
import torch

from postdiff_calib.cost.timeline import Clock, timed_call

LAUNCH, TEXT, STEP, DECODE = 0.01, 0.25, 0.5, 0.75
STEPS = 3
MEBIBYTE = 1 << 20


class Devices:
    """Two devices whose queued work ends late; ``now`` is the host's clock, and nothing is really waited for."""

    def __init__(self, current=0):
        self.now, self.current = 100.0, current
        self.ends, self.peaks, self.held = [0.0, 0.0], [0.0, 0.0], [3.0 * MEBIBYTE, 7.0 * MEBIBYTE]

    def index(self, device):
        named = torch.device(device).index if device is not None else None
        return self.current if named is None else named

    def work(self, device, seconds, memory=0.0):
        """The host launches it in no time; the device does it when it comes to it."""
        where = self.index(device)
        self.now += LAUNCH
        self.ends[where] = max(self.ends[where], self.now) + seconds
        self.peaks[where] = max(self.peaks[where], self.held[where] + memory)

    def synchronize(self, device=None):
        self.now = max(self.now, self.ends[self.index(device)])

    def reset(self, device=None):
        self.peaks[self.index(device)] = 0.0

    def install(self, monkeypatch):
        devices = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self, stream=None):
                self.where = devices.index(None) if stream is None else stream.where
                self.at = max(devices.ends[self.where], devices.now)

            def elapsed_time(self, other):
                assert self.where == other.where, "events of two devices"
                return 1000 * (other.at - self.at)

        fakes = {
            "Event": Event,
            "current_stream": lambda device=None: SimpleNamespace(where=devices.index(device)),
            "synchronize": self.synchronize,
            "memory_allocated": lambda device=None: self.held[devices.index(device)],
            "max_memory_allocated": lambda device=None: devices.peaks[devices.index(device)],
            "reset_peak_memory_stats": self.reset,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


class Network(torch.nn.Module):
    def __init__(self, devices, device, seconds):
        super().__init__()
        self.devices, self.device, self.seconds, self.calls = devices, device, seconds, 0

    def forward(self):
        self.calls += 1
        self.devices.work(self.device, self.seconds * self.calls, self.calls * MEBIBYTE)


def simulated(devices, device):
    """A pipeline whose text takes TEXT, whose i-th step takes i · STEP, and whose decoder takes DECODE seconds."""
    pipe = SimpleNamespace(
        text_encoder=Network(devices, device, TEXT),
        unet=Network(devices, device, STEP),
        vae=SimpleNamespace(decode=lambda: devices.work(device, DECODE)),
    )

    def call():
        pipe.text_encoder()
        for _ in range(STEPS):
            pipe.unet()
        pipe.vae.decode()

    return pipe, call


@pytest.mark.parametrize(("device", "current"), [("cuda:0", 0), ("cuda:1", 0), ("cuda:0", 1), ("cuda", 1)])
def test_seconds_land_in_the_step_that_took_them(monkeypatch, device, current):
    devices = Devices(current)
    devices.install(monkeypatch)
    pipe, call = simulated(devices, device)
    times = timed_call(pipe, pipe.unet, device, call)
    assert times.text == pytest.approx(TEXT, abs=2 * LAUNCH)
    assert times.before == pytest.approx(TEXT, abs=2 * LAUNCH)
    assert times.steps == pytest.approx([STEP, 2 * STEP, 3 * STEP], abs=2 * LAUNCH)
    assert times.network == pytest.approx([STEP, 2 * STEP, 3 * STEP], abs=2 * LAUNCH)
    assert times.after == pytest.approx(DECODE, abs=2 * LAUNCH)
    assert times.total == pytest.approx(TEXT + 6 * STEP + DECODE, abs=2 * LAUNCH)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_memory_is_that_of_the_pipelines_device_beyond_its_weights(monkeypatch, device):
    devices = Devices()
    devices.install(monkeypatch)
    pipe, call = simulated(devices, device)
    assert timed_call(pipe, pipe.unet, device, call).peak_memory == [MEBIBYTE, 2 * MEBIBYTE, 3 * MEBIBYTE]


def test_work_queued_before_is_waited_for_and_not_counted(monkeypatch):
    devices = Devices()
    devices.install(monkeypatch)
    pipe, call = simulated(devices, "cuda:1")
    devices.work("cuda:1", 50.0)
    assert timed_call(pipe, pipe.unet, "cuda:1", call).total == pytest.approx(TEXT + 6 * STEP + DECODE, abs=2 * LAUNCH)


def test_the_other_device_is_not_waited_for(monkeypatch):
    devices = Devices()
    devices.install(monkeypatch)
    devices.work("cuda:0", 50.0)
    Clock("cuda:1").synchronize()
    assert devices.now < 101
