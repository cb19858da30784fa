from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dermseg import figures
from dermseg.errors import InputError
from dermseg.figures import (
    EXTRA,
    LINE,
    MISSED,
    TRUTH,
    Colour,
    Panel,
    case,
    error_map,
    heat_map,
    outline,
    overlay,
    probability_image,
    sheet,
    side_by_side,
)


def scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A random photograph without the line's colour, and a round mask."""
    pixels = np.random.default_rng(0).integers(90, 200, (height, width, 3), np.uint8)
    y, x = np.ogrid[:height, :width]
    return pixels, (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2


def edge_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels from the mask's edge, on both sides."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) + cv2.distanceTransform(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5
    )


def test_the_outline_lies_on_the_edge_and_nowhere_else() -> None:
    pixels, mask = scene()
    drawn = outline(pixels, mask, thickness=2)
    changed = (drawn != pixels).any(axis=2)
    distance = edge_distance(mask)
    assert distance[changed].max() <= 4.5
    assert changed[distance <= 1].all()
    assert changed[mask].any()
    assert changed[~mask].any()


def test_the_line_has_its_colour_and_a_dark_rim_on_both_sides() -> None:
    pixels = np.full((120, 160, 3), 128, np.uint8)
    mask = scene()[1]
    drawn = outline(pixels, mask, color=(255, 255, 0), thickness=3).astype(int)
    line = np.abs(drawn - (255, 255, 0)).max(axis=2) < 10
    rim = drawn.max(axis=2) < 70
    assert line.sum() > 200
    assert edge_distance(mask)[line].max() <= 3
    assert (rim & mask).sum() > 50
    assert (rim & ~mask).sum() > 50


@pytest.mark.parametrize("background", [0, 255])
def test_the_outline_shows_on_black_and_on_white(background: int) -> None:
    pixels, mask = np.full((120, 160, 3), background, np.uint8), scene()[1]
    difference = np.abs(outline(pixels, mask).astype(int) - background).max(axis=2)
    assert (difference > 150).sum() > 200


def test_thickness_grows_with_the_image() -> None:
    widths = []
    for scale in (1, 8):
        pixels, mask = scene(180 * scale, 240 * scale)
        changed = (outline(pixels, mask) != pixels).any(axis=2)
        widths.append(changed.sum() / scale)
    assert widths[1] > 1.5 * widths[0]


def test_holes_and_separate_regions_are_outlined() -> None:
    pixels = np.full((100, 200, 3), 120, np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[10:90, 10:90] = True
    mask[35:65, 35:65] = False
    mask[40:60, 150:170] = True
    changed = (outline(pixels, mask) != pixels).any(axis=2)
    for y, x in ((10, 50), (35, 50), (40, 160)):
        assert changed[y - 1 : y + 2, x].any()


def test_overlay_keeps_the_lesion_and_dims_the_skin() -> None:
    pixels, mask = scene()
    drawn, far = overlay(pixels, mask, alpha=0.2), edge_distance(mask) > 6
    np.testing.assert_array_equal(drawn[mask & far], pixels[mask & far])
    np.testing.assert_allclose(drawn[~mask & far], pixels[~mask & far] * 0.8, atol=0.6)


def test_overlay_without_dimming_is_the_outline() -> None:
    pixels, mask = scene()
    np.testing.assert_array_equal(overlay(pixels, mask, alpha=0), outline(pixels, mask))


def test_an_empty_mask_draws_no_line() -> None:
    pixels, mask = scene()
    empty = np.zeros_like(mask)
    np.testing.assert_array_equal(outline(pixels, empty), pixels)
    np.testing.assert_allclose(overlay(pixels, empty, alpha=0.5), pixels * 0.5, atol=0.6)


def test_a_full_mask_is_framed_and_otherwise_kept() -> None:
    pixels, mask = scene()
    drawn = overlay(pixels, np.ones_like(mask))
    np.testing.assert_array_equal(drawn[6:-6, 6:-6], pixels[6:-6, 6:-6])
    assert np.abs(drawn[0].astype(int) - LINE).max(axis=1).mean() < 40


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 2), (2, 2)])
def test_tiny_photographs_are_drawn(size: tuple[int, int]) -> None:
    pixels, mask = np.zeros((*size, 3), np.uint8), np.ones(size, bool)
    assert overlay(pixels, mask).shape == pixels.shape
    assert side_by_side(pixels, mask, mask.astype(np.float32)).ndim == 3


@pytest.mark.parametrize("draw", [outline, overlay, side_by_side])
@pytest.mark.parametrize("order", ["C", "view"])
def test_inputs_are_never_changed(draw: Callable[..., np.ndarray], order: str) -> None:
    pixels, mask = scene()
    if order == "view":
        pixels, mask = pixels[::-1, ::2], mask[::-1, ::2]
    before = pixels.copy(), mask.copy()
    pixels.flags.writeable = mask.flags.writeable = False
    drawn = draw(pixels, mask)
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(mask, before[1])
    np.testing.assert_array_equal(drawn, draw(*before))
    assert not np.shares_memory(drawn, pixels)


def test_probability_image_is_exact_and_monotone() -> None:
    levels = probability_image(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert levels.dtype == np.uint8
    assert levels.tolist() == [[0, 128, 255]]
    ramp = probability_image(np.linspace(0, 1, 1001, dtype=np.float32)[None])
    assert (np.diff(ramp[0].astype(int)) >= 0).all()
    assert len(np.unique(ramp)) == 256
    np.testing.assert_allclose(ramp[0] / 255, np.linspace(0, 1, 1001), atol=0.5 / 255 + 1e-6)


def test_side_by_side_lays_out_panels_of_480_pixels() -> None:
    pixels, mask = scene(120, 160)
    row = side_by_side(pixels, mask)
    assert row.shape == (12 + 360 + 34, 3 * 480 + 4 * 12, 3)
    assert row.dtype == np.uint8
    with_bar = side_by_side(pixels, mask, mask.astype(np.float32))
    bar = with_bar.shape[1] - (4 * 480 + 6 * 12)
    assert with_bar.shape[0] == row.shape[0]
    assert 30 <= bar <= 80
    assert side_by_side(pixels[:, :60], mask[:, :60]).shape == (12 + 480 + 34, 3 * 240 + 4 * 12, 3)


def test_side_by_side_shows_photograph_mask_and_probability() -> None:
    pixels, mask = np.full((480, 480, 3), 90, np.uint8), np.zeros((480, 480), bool)
    mask[:, 240:] = True
    row = side_by_side(pixels, mask, mask.astype(np.float32))
    panels = [row[12 : 12 + 480, 12 + n * 492 :][:, :480] for n in range(4)]
    np.testing.assert_array_equal(panels[0], pixels)
    np.testing.assert_array_equal(panels[1], overlay(pixels, mask))
    np.testing.assert_array_equal(panels[2], np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    # The ends of viridis: dark violet and bright yellow.
    np.testing.assert_allclose(panels[3][0, 0].astype(int), (68, 1, 84), atol=2)
    np.testing.assert_allclose(panels[3][0, -1].astype(int), (253, 231, 37), atol=2)


def test_side_by_side_writes_captions() -> None:
    pixels, mask = scene()
    below = side_by_side(pixels, mask)[12 + 360 :]
    for left in (12, 504, 996):
        assert 100 < (below[:, left : left + 480].min(axis=2) < 128).sum() < 2000


@pytest.mark.parametrize("draw", [outline, overlay, side_by_side])
@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        (
            np.zeros((8, 9, 3), np.uint8),
            np.zeros((9, 8), bool),
            "The mask has the shape (9, 8), the photograph (8, 9).",
        ),
        (
            np.zeros((8, 9), np.uint8),
            np.zeros((8, 9), bool),
            "A photograph must be uint8 (H, W, 3), not uint8 (8, 9).",
        ),
        (
            np.zeros((8, 9, 3), np.float32),
            np.zeros((8, 9), bool),
            "A photograph must be uint8 (H, W, 3), not float32 (8, 9, 3).",
        ),
        (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8), "A mask must be bool, not uint8."),
    ],
)
def test_what_does_not_fit_is_named(
    draw: Callable[..., np.ndarray], pixels: np.ndarray, mask: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        draw(pixels, mask)
    assert str(caught.value) == message


def test_probability_and_alpha_are_checked() -> None:
    pixels, mask = scene()
    with pytest.raises(InputError) as caught:
        side_by_side(pixels, mask, np.zeros((5, 5), np.float32))
    assert str(caught.value) == "The probability has the shape (5, 5), the photograph (120, 160)."
    with pytest.raises(InputError) as caught:
        overlay(pixels, mask, alpha=2)
    assert str(caught.value) == "alpha must lie between 0 and 1, not 2."
    with pytest.raises(InputError) as caught:
        probability_image(np.zeros((2, 2, 1), np.float32))
    assert str(caught.value) == "A probability must have the shape (H, W), not (2, 2, 1)."


# Errors


def test_what_was_found_keeps_its_hue_and_what_was_not_is_coloured() -> None:
    pixels, truth = scene()
    mask = np.roll(truth, 20, axis=1)
    drawn = error_map(pixels, mask, truth)
    for area, colour in ((truth & ~mask, MISSED), (mask & ~truth, EXTRA)):
        assert np.abs(drawn[area] - np.array(colour, float)).max() <= 0.25 * 255
    rest = drawn[~(mask | truth)].astype(int)
    assert (rest == rest[:, :1]).all(), "grey"
    assert rest.min() >= 110
    inside, photograph = (each[mask & truth].astype(int) for each in (drawn, pixels))
    np.testing.assert_allclose(inside[:, 0] - inside[:, 2], (photograph[:, 0] - photograph[:, 2]) / 2, atol=1)
    everything = np.ones_like(truth)
    np.testing.assert_array_equal(error_map(pixels, everything, everything)[mask & truth], drawn[mask & truth])


def two_structures() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    pixels, truth = scene()
    return pixels, {"pigment_network": truth, "streaks": np.zeros_like(truth), "globules": np.roll(truth, 25, axis=1)}


def test_structures_have_outlines_of_their_own_colours() -> None:
    pixels, masks = two_structures()
    drawn = figures.outlines(pixels, masks)
    for name, colour in figures.colours_of(masks).items():
        found = (drawn == np.array(colour, np.uint8)).all(axis=2)
        near = cv2.dilate(masks[name].astype(np.uint8), np.ones((15, 15)))
        assert found.any() == masks[name].any()
        assert not found[near == 0].any()
    assert len(set(figures.colours_of("abcdefg").values())) == 7


def test_of_outlines_that_run_together_both_are_seen() -> None:
    pixels, truth = scene(600, 800)
    drawn = figures.outlines(pixels, dict.fromkeys("ab", truth))
    for colour in figures.PALETTE[:2]:
        assert (drawn == np.array(colour, np.uint8)).all(axis=2).sum() > 100


@pytest.mark.parametrize("width", [60, 1500])
def test_a_legend_names_each_structure_and_its_area(written: list[str], width: int) -> None:
    pixels, masks = two_structures()
    scale = width / pixels.shape[1]
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale).astype(np.uint8)
    masks = {name: cv2.resize(mask.astype(np.uint8), pixels.shape[1::-1]) > 0 for name, mask in masks.items()}
    area = f"{100 * masks['globules'].mean():.1f} %"
    drawn = figures.structures(pixels, masks)
    height = pixels.shape[0]
    np.testing.assert_array_equal(drawn[:height, : pixels.shape[1]], figures.outlines(pixels, masks))
    assert written[0:2] + written[2:4] + written[4:] == [
        *("pigment network", f"{100 * masks['pigment_network'].mean():.1f} %"),
        *("streaks", "not found"),
        *("globules", area),
    ]
    # What was found is a filled sign, what was not a hollow one.
    legend = drawn[height:]
    counts = [(legend == np.array(colour, np.uint8)).all(axis=2).sum() for colour in figures.PALETTE[:3]]
    assert counts[0] == counts[2] > counts[1] > 0
    # In one line where there is room, else in one line each.
    assert len(legend) == figures.CAPTION * (1 if width == 1500 else 3)


def test_outlines_must_fit_the_photograph() -> None:
    pixels, masks = two_structures()
    with pytest.raises(InputError, match="mask has the shape"):
        figures.structures(pixels, {**masks, "globules": masks["globules"][1:]})


def test_of_several_classes_a_pixel_is_wrong_if_one_is() -> None:
    pixels, truth = scene()
    other = np.roll(truth, 30, axis=0)
    masks, truths = np.stack([truth, truth]), np.stack([truth, other])
    drawn, alone = error_map(pixels, masks, truths), error_map(pixels, truth, other)
    np.testing.assert_array_equal(drawn[truth | other], alone[truth | other])
    masks, truths = np.stack([truth, ~truth]), np.stack([~truth, truth])
    assert np.abs(error_map(pixels, masks, truths) - np.array(figures.CONFUSED, float)).max() <= 0.25 * 255


# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
COLOUR_BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("kind", COLOUR_BLIND)
@pytest.mark.parametrize("skin", [(240, 205, 190), (215, 130, 110), (150, 85, 60), (95, 60, 45), (30, 20, 20)])
def test_missed_extra_found_and_rest_stay_apart_for_colour_blind_eyes(kind: str, skin: Colour) -> None:
    mask, truth = np.array([[False, True, True, False]]), np.array([[True, False, True, False]])
    drawn = error_map(np.full((1, 4, 3), skin, np.uint8), mask, truth)
    linear = (drawn / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(COLOUR_BLIND[kind]).T, 0, 1) ** (1 / 2.2)
    missed, extra, found, rest = cv2.cvtColor(seen.astype(np.float32), cv2.COLOR_RGB2Lab)[0].astype(float)
    for one, other in ((missed, extra), (missed, found), (missed, rest), (extra, found), (extra, rest)):
        assert np.linalg.norm(one - other) > 15, "a difference of 2 is just noticed"


# Sheets


def panels_of(drawn: np.ndarray, size: tuple[int, int], columns: int, rows: int = 1) -> list[list[np.ndarray]]:
    """The pictures on a sheet whose rows all have pictures of one size; below them stand captions of 34 pixels."""
    height, width = size
    step = height + 34 + 12
    tops = [len(drawn) - (rows - row) * step + 12 for row in range(rows)]
    return [[drawn[top:, 12 + n * (width + 12) :][:height, :width] for n in range(columns)] for top in tops]


def test_a_sheet_lays_out_rows_of_panels_under_a_title() -> None:
    rng = np.random.default_rng(1)
    pictures = [[rng.integers(0, 256, (200, 300, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    drawn = sheet([[Panel(picture, "Caption", "a note") for picture in row] for row in pictures], "Title", "Subtitle")
    assert drawn.shape[1] == 3 * 312 + 12
    for row, found in zip(pictures, panels_of(drawn, (200, 300), 3, 2), strict=True):
        for picture, part in zip(row, found, strict=True):
            np.testing.assert_array_equal(part, picture)
    head = len(drawn) - 2 * (200 + 34 + 12)
    assert 30 < head < 80
    assert (drawn[:head] < 128).any()


def test_a_row_may_be_shorter_and_a_picture_narrower() -> None:
    wide, narrow = np.zeros((50, 400, 3), np.uint8), np.zeros((80, 5, 3), np.uint8)
    drawn = sheet([[Panel(wide, "Wide"), Panel(narrow, "Narrow", "3.4 %")], [Panel(wide, "Alone")]], "Title")
    assert drawn.shape[1] == 2 * 412 + 12
    last = drawn[-(50 + 34) : -34]
    assert (last[:, 12:412] == 0).all()
    assert (last[:, 412:] == 255).all()


def test_a_long_caption_or_title_widens_the_sheet() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    short = sheet([[Panel(picture, "a")]], "a").shape[1]
    assert sheet([[Panel(picture, "a" * 60)]], "a").shape[1] > short + 300
    assert sheet([[Panel(picture, "a")]], "a" * 60).shape[1] > short + 400


def test_a_key_shows_its_colours() -> None:
    picture = np.zeros((20, 300, 3), np.uint8)
    drawn = sheet([[Panel(picture, "Errors", key={"missed": MISSED, "too much": EXTRA})]], "Title")
    places = [np.argwhere((drawn[-34:] == colour).all(axis=2)) for colour in (MISSED, EXTRA)]
    for found in places:
        assert 80 <= len(found) <= 150
    assert places[0][:, 1].max() < places[1][:, 1].min()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written into pictures, in order."""
    texts: list[str] = []
    draw = figures._text

    def write(text: str, ink: Colour = figures.INK, size: float = figures.TEXT) -> np.ndarray:
        texts.append(text)
        return draw(text, ink, size)

    monkeypatch.setattr(figures, "_text", write)
    return texts


# JPEGs of these sizes are decoded at a half or less, whose sides are rounded up.
@pytest.mark.parametrize("size", [(2003, 3001), (2841, 4282), (1536, 2049), (767, 1022)])
def test_a_photograph_at_a_reduced_scale_goes_with_its_masks(size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.bool_)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    for divisor in (1, 2, 4):
        pixels = np.full((-(-size[0] // divisor), -(-size[1] // divisor), 3), 180, np.uint8)
        assert heat_map(pixels, mask.astype(np.float32), mask).ndim == 3
        for predicted, truths in (({"lesion": mask}, {"lesion": mask}), ({"lesion": mask}, {}), ({}, {"lesion": mask})):
            assert case(pixels, predicted, truths, "title").ndim == 3


def test_a_case_shows_photograph_truth_prediction_and_errors(written: list[str]) -> None:
    pixels, truth = scene(288, 385)  # of a panel's size, so that nothing is scaled
    mask = np.roll(truth, 15, axis=1)
    drawn = case(pixels, {"lesion": mask}, {"lesion": truth}, "ISIC_0000001", "drawn")
    assert drawn.shape[1] == 1600
    ((photograph, true, found, errors),) = panels_of(drawn, (288, 385), 4)
    np.testing.assert_array_equal(photograph, pixels)
    np.testing.assert_array_equal(true, outline(pixels, truth, TRUTH))
    np.testing.assert_array_equal(found, outline(pixels, mask))
    np.testing.assert_array_equal(errors, error_map(pixels, mask, truth))
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    assert {text for text in written if text} == {
        "ISIC_0000001",
        "drawn",
        "Photograph",
        "Truth",
        f"{100 * truth.sum() / truth.size:.1f} % of the image",
        "Prediction",
        f"Jaccard {both / either:.3f}, Dice {2 * both / (both + either):.3f}",
        "Errors",
        "missed",
        "too much",
    }


def test_several_classes_have_a_row_each(written: list[str]) -> None:
    pixels, truth = scene(288, 385)
    empty = np.zeros_like(truth)
    predicted = {"pigment_network": truth, "streaks": empty, "globules": empty}
    drawn = case(pixels, predicted, {"pigment_network": truth, "streaks": empty}, "many")
    first, second, third = panels_of(drawn, (288, 385), 4, 3)
    np.testing.assert_array_equal(first[3], error_map(pixels, truth, truth))
    np.testing.assert_array_equal(second[1], pixels)
    np.testing.assert_array_equal(third[1], pixels)
    assert (third[2] == 255).all()
    captions = [text for text in written if text in ("Pigment network", "Streaks", "Globules", "empty")]
    assert captions == ["Pigment network", "Streaks", "empty", "Globules", "empty"]
    assert written.count("Jaccard 1.000, Dice 1.000") == 2


def test_scores_are_those_at_the_masks_own_size(written: list[str]) -> None:
    """A structure too fine for the panel still counts."""
    pixels, truth = np.zeros((200, 300, 3), np.uint8), np.zeros((2000, 3000), bool)
    truth[::10, ::10] = True
    mask = truth.copy()
    mask[1000:] = False
    case(pixels, {"globules": mask}, {"globules": truth}, "fine")
    assert "Jaccard 0.500, Dice 0.667" in written
    assert "1.0 % of the image" in written


@pytest.mark.parametrize(("classes", "columns", "rows"), [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 1), (6, 4, 2)])
@pytest.mark.parametrize("kind", ["predicted", "truths"])
def test_masks_of_one_kind_stand_in_rows_of_four(
    written: list[str], kind: str, classes: int, columns: int, rows: int
) -> None:
    pixels, mask = scene(60, 80)
    masks = {f"class_{number}": mask for number in range(classes)}
    drawn = case(pixels, *((masks, {}) if kind == "predicted" else ({}, masks)), "one")
    side = min(480, (1600 - 12) // columns - 12)
    assert drawn.shape[1] == columns * (side + 12) + 12
    head = len(drawn) - rows * (round(side * 60 / 80) + 34 + 12)
    assert 30 < head < 80
    expected = [f"Predicted class {n}" if kind == "predicted" else f"Class {n}" for n in range(classes)]
    assert [text for text in written if "lass" in text] == expected
    assert ("no masks" in written) == (classes == 0)


def test_a_case_leaves_its_inputs_alone() -> None:
    pixels, mask = scene()
    pixels.flags.writeable = mask.flags.writeable = False
    drawn = case(pixels, {"lesion": mask}, {"lesion": mask}, "a")
    np.testing.assert_array_equal(drawn, case(pixels, {"lesion": mask}, {"lesion": mask}, "a"))
