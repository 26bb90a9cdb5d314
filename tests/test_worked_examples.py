"""The worked examples of the lecture notes, with the numbers as they stand there."""

import contract
import numpy as np
import pytest

import pyconv as pc


def conv(image, kernel, dtype=np.float64, **options):
    """One image, one channel, one filter."""
    x, w = np.array(image, dtype)[None, None], np.array(kernel, dtype)[None, None]
    return pc.conv2d(x, w, **options)[0, 0]


def rows(text):
    return np.array([[float(v) for v in line.split()] for line in text.strip().splitlines()])


@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_1_board(dtype):
    y = conv([[1, 3, -1], [2, 1, 0], [0, 2, -1]], [[1, 0], [2, -1]], dtype)
    assert y.tolist() == [[4, 5], [0, 6]]


def test_2_index_matrix():
    got = pc.im2col_indices((3, 3), 2)
    assert got.tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    assert pc.im2col_indices((3, 4), 2).tolist() == [
        [0, 1, 2, 4, 5, 6],
        [1, 2, 3, 5, 6, 7],
        [4, 5, 6, 8, 9, 10],
        [5, 6, 7, 9, 10, 11],
    ]


def test_3_smiley():
    """The slides print 1 at (2, 2); the arithmetic gives 0."""
    smiley = np.zeros((7, 7))
    for place in [(1, 1), (1, 5), (3, 3), (4, 1), (4, 5), (5, 2), (5, 3), (5, 4)]:
        smiley[place] = 1
    assert conv(smiley, [[0, 0, 1], [1, 0, 0], [0, 1, 1]]).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [1, 0, 0, 2, 1],
        [1, 4, 2, 1, 0],
        [0, 0, 1, 2, 1],
    ]


SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
SOBEL_INPUT = rows("""
0 0 0 0 1 1 0 0 0 0
0 0 0 1 1 1 1 0 0 0
0 0 0 0 1 1 0 0 0 0
1 0 0 1 1 1 1 0 0 0
0 0 1 1 1 1 1 1 0 0
0 1 0 1 1 1 1 0 1 0
0 0 0 1 1 1 1 0 0 0
0 0 0 1 1 1 1 0 0 0
0 0 0 1 0 0 1 0 0 1
0 0 1 1 0 0 1 1 0 0
""")
SOBEL_OUTPUT = rows("""
0  0  0  0  1  1 -1 -1  0  0  0  0
0  0  0  1  3  2 -2 -3 -1  0  0  0
0  0  0  2  4  2 -2 -4 -2  0  0  0
1  0 -1  2  4  2 -2 -4 -2  0  0  0
2  0 -1  3  3  1 -1 -3 -3 -1  0  0
1  1  1  3  2  0  0 -2 -3 -2 -1  0
0  2  1  2  3  0  0 -3 -2 -1 -2  0
0  1  0  3  4  0  0 -4 -3  0 -1  0
0  0  0  4  3 -1  1 -3 -4  1  0 -1
0  0  1  4  0 -3  3  0 -4  1  0 -2
0  0  2  3 -2 -3  3  2 -3 -1  0 -1
0  0  1  1 -1 -1  1  1 -1 -1  0  0
""")


def test_4_sobel():
    assert np.array_equal(conv(SOBEL_INPUT, SOBEL, padding="full"), SOBEL_OUTPUT)
    pixels = conv(SOBEL_INPUT * 255, SOBEL, np.float32, padding="full")
    grey = np.round((pixels + 1020) / 2040 * 255)
    levels = {0: 128, 255: 159, 510: 191, 765: 223, 1020: 255, -255: 96, -510: 64, -765: 32}
    for value, level in {**levels, -1020: 0}.items():
        assert set(grey[pixels == value]) == {level}


def test_4_sobel_turned_finds_horizontal_lines():
    turned = conv(np.rot90(SOBEL_INPUT), np.rot90(SOBEL), padding="full")
    assert np.array_equal(turned, np.rot90(SOBEL_OUTPUT))


@pytest.mark.parametrize(
    ("image", "want"),
    [
        ([[1, 3, 6, 2], [3, 8, 1, 1], [2, 9, 2, 1], [5, 1, 3, 1]], [[8, 6], [9, 3]]),
        ([[5, 2, 3, 1], [1, 9, 8, 3], [3, 2, 1, 6], [1, 1, 1, 2]], [[9, 8], [3, 6]]),
        ([[2, 1, 5, 3], [2, 7, 2, 2], [1, 8, 3, 2], [6, 2, 2, 2]], [[7, 5], [8, 3]]),
    ],
)
def test_5_max_pooling(image, want):
    y = pc.max_pool2d(np.array(image, np.float32)[None, None], 2, stride=2)
    assert y[0, 0].tolist() == want


def test_6_gradient_of_the_filter():
    a, b, c, d, e, f, g, h, i = letters = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256])
    x = letters.reshape(1, 1, 3, 3)
    _, dw, db = pc.conv2d_backward(np.ones((1, 1, 2, 2)), x, np.zeros((1, 1, 2, 2)))
    assert dw[0, 0].tolist() == [
        [a + b + d + e, b + c + e + f],
        [d + e + g + h, e + f + h + i],
    ]
    assert db.tolist() == [4]


def test_7_flipping():
    j, k, l, m = 2.0, 3.0, 5.0, 7.0  # noqa: E741
    a, b, d, e = 11.0, 13.0, 17.0, 19.0
    image = [[a, b], [d, e]]
    assert conv(image, [[j, k], [l, m]], flip=True) == conv(image, [[m, l], [k, j]])
    assert conv(image, [[m, l], [k, j]], flip=True) == a * j + b * k + d * l + e * m
    x, w = contract.random("true convolution", (2, 3, 7, 8), (4, 3, 3, 2))
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1])
    contract.assert_same_bits(pc.conv2d(x, w, flip=True), pc.conv2d(x, turned))


@pytest.mark.parametrize(
    ("m", "k", "s"), [(5, 3, 2), (28, 5, 1), (10, 2, 2), (11, 4, 3), (7, 7, 1)]
)
def test_8_output_sizes(m, k, s):
    x, w = np.ones((1, 1, m, m)), np.ones((1, 1, k, k))
    assert pc.conv2d(x, w).shape[2] == m - k + 1
    assert pc.conv2d(x, w, padding="same").shape[2] == m
    assert pc.conv2d(x, w, stride=s).shape[2] == (m - k + s) // s


def test_8_output_sizes_as_given():
    assert pc.conv_output_shape((1, 1, 5, 5), (1, 1, 3, 3), stride=2) == (1, 1, 2, 2)
    assert pc.conv_output_shape((1, 3, 10, 10), (7, 3, 2, 2), stride=2) == (1, 7, 5, 5)


def test_9_parameters():
    filters = np.zeros((10, 3, 5, 5))
    image = np.zeros((1, 3, 32, 32))
    assert filters.size == 750
    assert pc.conv2d(image, filters).shape == (1, 10, 28, 28)
    neuron = np.zeros((1, 3, 32, 32))  # fully connected: a filter as large as the image
    assert neuron.size == 3072
    assert pc.conv2d(image, neuron).shape == (1, 1, 1, 1)


def test_9_shared_weights():
    """3x3 -> 2x2: 36 numbers fully connected, of which a convolution has 4 different ones."""
    pytest.importorskip("scipy", reason="pip install 'pyconv-engine[scipy]'")
    matrix = pc.conv_matrix(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), (1, 3, 3)).toarray()
    assert matrix.size == 36
    assert sorted(set(matrix[matrix != 0])) == [1, 2, 3, 4]


def test_11_pooling_is_invariant_to_shifts_within_its_windows():
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[0, 0, ::2, ::2] = np.arange(1, 17).reshape(4, 4)
    for shift in [(0, 1), (1, 0), (1, 1)]:
        moved = np.roll(image, shift, (2, 3))
        contract.assert_same_bits(pc.max_pool2d(moved, 2), pc.max_pool2d(image, 2))


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_11_convolution_is_equivariant(algorithm):
    x, w = contract.integers("equivariance", (1, 2, 9, 10), (3, 2, 3, 3))
    options = {"padding": 1, "padding_mode": "circular", "algorithm": algorithm}
    moved = pc.conv2d(np.roll(x, (2, 5), (2, 3)), w, **options)
    contract.assert_same_bits(moved, np.roll(pc.conv2d(x, w, **options), (2, 5), (2, 3)))
