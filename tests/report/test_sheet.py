"""A sheet of images with labels and prompts."""

from PIL import Image

from postdiff_calib.report.sheet import draw_sheet


def test_large_images_are_reduced_and_long_texts_stay_inside():
    sheet = draw_sheet(
        ["a label of many words " * 8], [[Image.new("RGB", (1024, 512), "red")]], ["a long prompt " * 40]
    )
    left = sheet.width - 256 - 4
    assert sheet.getpixel((left + 128, 64)) == (255, 0, 0)
    assert sheet.getpixel((left + 128, 130)) == (255, 255, 255)
    # the label does not run into the image
    assert all(sheet.getpixel((left - 2, y)) == (255, 255, 255) for y in range(sheet.height))


def test_a_cell_without_an_image_stays_empty_and_small_images_are_enlarged():
    red = Image.new("RGB", (64, 64), "red")
    sheet = draw_sheet(["a", "b"], [[red, red], [None, red]], ["one", "two"])
    left = sheet.width - 2 * 132
    assert sheet.getpixel((left + 64, 64)) == (255, 0, 0)
    assert sheet.getpixel((left + 64, 132 + 64)) == (255, 255, 255)
    assert sheet.getpixel((left + 132 + 64, 132 + 64)) == (255, 0, 0)
