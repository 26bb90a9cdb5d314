"""What is done to images: sizes, standardisation, random changes."""

import numpy as np
import pytest

from pyconv import data


def test_fit_size_enlarges_and_centres():
    x = data.load("digits", "test").x
    large = data.fit_size(x, (32, 32))
    np.testing.assert_array_equal(large[:, :, 1::4, 3::4], x)
    framed = data.fit_size(np.ones((1, 1, 28, 27), np.uint8), (32, 32))
    assert framed.sum() == 28 * 27
    assert framed[0, 0, 2:30, 3:30].all()
    with pytest.raises(ValueError, match="larger than"):
        data.fit_size(x, (7, 32))


def test_standardize_gives_mean_0_and_standard_deviation_1():
    x = np.random.default_rng(0).integers(0, 200, (50, 3, 4, 5), np.uint8)
    prepare = data.Standardize.of(x)
    np.testing.assert_allclose(prepare.mean, x.mean((0, 2, 3)))
    np.testing.assert_allclose(prepare.std, x.std((0, 2, 3)))
    y = prepare(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.isfinite(data.Standardize.of(np.zeros_like(x))(x)).all()


def test_shift_moves_each_image_as_a_whole():
    x = np.zeros((200, 2, 7, 7), np.uint8)
    x[:, :, 3, 3] = [7, 9]
    moved = data.Shift(2)(x, np.random.default_rng(0))
    assert moved.sum() == x.sum()
    places = {tuple(np.argwhere(image[1] == 9)[0]) for image in moved}
    assert places == {(i, j) for i in range(1, 6) for j in range(1, 6)}
    np.testing.assert_array_equal(moved[:, 0] * 9, moved[:, 1] * 7)


# Augmentation


PIXELS = np.random.default_rng(5).integers(0, 256, (40, 3, 9, 8), np.uint8)


def generator():
    return np.random.default_rng(3)


@pytest.mark.parametrize(
    "augmentation",
    [
        data.Shift(2, "reflect"),
        data.Crop((5, 6)),
        data.Flip(),
        data.Cutout(3, (1.0, 2.0, 3.0)),
        data.Brightness(20),
        data.Contrast(0.5, 1.5),
    ],
    ids=lambda a: type(a).__name__,
)
def test_augmentations_keep_bytes_and_repeat_themselves(augmentation):
    found = augmentation(PIXELS, generator())
    assert found.dtype == np.uint8
    assert found.shape[:2] == PIXELS.shape[:2]
    np.testing.assert_array_equal(found, augmentation(PIXELS, generator()))
    assert not np.array_equal(found, augmentation(PIXELS, np.random.default_rng(4)))


def test_reflected_shifts_and_crops_are_parts_of_their_images():
    padded = np.pad(PIXELS, ((0, 0), (0, 0), (2, 2), (2, 2)), "reflect")
    for source, augmentation in ((padded, data.Shift(2, "reflect")), (PIXELS, data.Crop((5, 6)))):
        found = augmentation(PIXELS, generator())
        h, w = found.shape[2:]
        for image, part in zip(source, found, strict=True):
            places = [
                (i, j)
                for i in range(image.shape[1] - h + 1)
                for j in range(image.shape[2] - w + 1)
                if np.array_equal(image[:, i : i + h, j : j + w], part)
            ]
            assert places
    with pytest.raises(ValueError, match="no part of 10x3"):
        data.Crop((10, 3))(PIXELS, generator())


def test_alternating_flip_shows_each_image_both_ways():
    index = np.random.default_rng(0).permutation(40)

    def flipped(epoch, order):
        batch = data.Batch(PIXELS[order], index, index[order], epoch, generator())
        x = data.AlternatingFlip(7).on_batch(batch).x
        return (x != PIXELS[order]).any((1, 2, 3))

    first, second = flipped(0, np.arange(40)), flipped(1, np.arange(40))
    assert 8 < first.sum() < 32
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, flipped(2, np.arange(40)))
    np.testing.assert_array_equal(first[::-1], flipped(0, np.arange(40)[::-1]))


def test_cutout_covers_one_square():
    found = data.Cutout(3, (1.0, 2.0, 3.0))(PIXELS, generator())
    for image, cut in zip(PIXELS, found, strict=True):
        rows, columns = np.nonzero((image != cut).any(0))
        assert np.ptp(rows) < 3
        assert np.ptp(columns) < 3
        for c in range(3):
            assert set(cut[c][image[c] != cut[c]]) <= {c + 1}


def test_mixup_mixes_images_and_targets_alike():
    labels = np.arange(40) % 4
    x = np.broadcast_to(labels.astype(np.float32)[:, None, None, None], (40, 1, 2, 2))
    batch = data.Mixup(0.5, 4).on_batch(data.Batch(x, labels, labels, 0, generator()))
    np.testing.assert_allclose(batch.y.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(batch.y.argmax(1), labels)
    np.testing.assert_allclose(batch.x[:, 0, 0, 0], batch.y @ np.arange(4), rtol=1e-5, atol=1e-6)


def test_brightness_and_contrast_keep_what_they_should():
    x = PIXELS.astype(np.float32)
    added = data.Brightness(30)(x, generator()) - x
    assert np.ptp(added, (1, 2, 3)).max() < 1e-4
    assert 20 < np.abs(added).max() <= 30
    spread = data.Contrast(0.5, 2)(x, generator())
    np.testing.assert_allclose(spread.mean((2, 3)), x.mean((2, 3)), rtol=1e-4)
    ratio = spread.std((2, 3)) / x.std((2, 3))
    assert 0.5 <= ratio.min() < ratio.max() <= 2
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(3, 1), rtol=1e-4)


def test_each_image_is_standardized_by_itself():
    y = data.StandardizeEach()(PIXELS)
    np.testing.assert_allclose(y.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((1, 2, 3)), 1, rtol=1e-5)
    assert not data.StandardizeEach()(np.full((1, 1, 4, 4), 7, np.uint8)).any()


def test_views_are_what_a_symmetric_network_cannot_tell_apart():
    x = PIXELS.astype(np.float32)
    for level, count in ((0, 1), (1, 2), (2, 6)):
        found = data.views(x, level)
        assert len(found) == count
        assert sum(weight for weight, _ in found) == 1
        assert all(view.shape == x.shape for _, view in found)
    np.testing.assert_array_equal(found[1][1], x[..., ::-1])
    np.testing.assert_array_equal(found[2][1][:, :, 1:, 1:], x[:, :, :-1, :-1])
    np.testing.assert_array_equal(data.centre(x, (5, 4)), x[:, :, 2:7, 2:6])
