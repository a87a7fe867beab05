"""Images in 8 bits."""

import numpy as np
import torch

from postdiff_calib.files.pixels import levels, rounded, to_array


def test_values_go_to_the_nearest_level_and_what_lies_outside_is_cut_off():
    values = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 1.1])
    assert levels(values).tolist() == [0, 0, 0, 1, 128, 255, 255]  # 127.5 goes to the even one
    assert torch.equal(rounded(values), levels(values) / 255)
    assert torch.equal(rounded(rounded(values)), rounded(values))


def test_an_array_has_its_channels_last():
    image = torch.zeros(3, 2, 4)
    image[1, 0, 3] = 1.0
    array = to_array(image)
    assert (array.shape, array.dtype, array.sum()) == ((2, 4, 3), np.uint8, 255)
    assert array[0, 3].tolist() == [0, 255, 0]
