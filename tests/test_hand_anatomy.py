"""Facts about hands: bone lengths, sizes, proportions and bending, and the limits at which labels are doubted."""

import numpy as np
import pytest

from jaxhand.hand import anatomy
from jaxhand.hand.skeleton import JOINT_ORDERS, PARENTS, from_our_order
from tests.support import layouts


def straight(scale=1.0) -> np.ndarray:
    """Joints (21, 3) mm of an adult's right hand: straight fingers that fan out, seen from the back."""
    joints = np.zeros((21, 3))
    for finger, angle in enumerate((-0.8, -0.3, 0.0, 0.2, 0.4)):
        lengths = np.cumsum(anatomy.ADULT_BONES_MM[finger])
        joints[4 * finger + 1 : 4 * finger + 5] = lengths[:, None] * [np.sin(angle), -np.cos(angle), 0]
    return joints * scale + [0, 0, 600]


def stretched(factor: float, bones=slice(None)) -> np.ndarray:
    """`straight` with some of its 20 bones longer."""
    joints = straight()
    factors = np.ones(20)
    factors[bones] = factor
    result = joints.copy()
    for joint in range(1, 21):
        result[joint] = result[PARENTS[joint]] + (joints[joint] - joints[PARENTS[joint]]) * factors[joint - 1]
    return result


def test_an_adults_bones():
    """Each finger from the wrist to its tip, and each kind of bone summed over the fingers."""
    assert anatomy.ADULT_BONES_MM.sum(1).tolist() == [135, 179, 184, 172, 152]
    assert anatomy.ADULT_BONES_MM.sum(0).tolist() == [374, 195, 136, 117]
    assert (np.diff(anatomy.ADULT_BONES_MM[1:], axis=1) < 0).all()  # each bone is shorter than the one before
    lengths = anatomy.bone_lengths(straight()[None])
    np.testing.assert_allclose(lengths, anatomy.ADULT_BONES_MM.reshape(1, 20))


def test_units_in_mm():
    names = ("metres", "decimetres", "centimetres", "inches", "millimetres", "tenths of mm")
    assert anatomy.UNITS_MM == dict(zip(names, (1000, 100, 10, 25.4, 1, 0.1)))
    assert anatomy.RADIUS_RANGE_MM == (12, 250)  # between a tenth of a hand and twice the largest one


def test_size_of_hands():
    hands = np.stack([straight(0.8), straight(1.3), straight(1.1)])
    assert anatomy.hand_scale(hands) == pytest.approx(1.1)
    valid = np.ones((3, 21), bool)
    np.testing.assert_allclose(anatomy.hand_scales(hands, valid), [0.8, 1.3, 1.1])


def test_size_of_a_hand_by_its_labelled_bones():
    """Only bones with two labelled ends count; the lower of the two middle ratios is taken."""
    hand = stretched(2.0, slice(0, 2))[None]  # the first two bones of the thumb
    valid = np.zeros((1, 21), bool)
    assert np.isnan(anatomy.hand_scales(hand, valid)).all()
    valid[0, [1, 2, 5]] = True  # no wrist: only the bone from 1 to 2
    np.testing.assert_allclose(anatomy.hand_scales(hand, valid), 2)
    valid[0, 6] = True  # and that from 5 to 6
    np.testing.assert_allclose(anatomy.hand_scales(hand, valid), 1)
    valid[0, 0] = True  # bones 0-1, 1-2 are doubled; 0-5, 5-6 are not
    np.testing.assert_allclose(anatomy.hand_scales(hand, valid), 1)
    valid[0, [5, 6]] = False
    np.testing.assert_allclose(anatomy.hand_scales(hand, valid), 2)
    rising = stretched(1 + np.arange(20) / 10)[None]  # the bone to joint j is 1 + (j - 1) / 10 times as long
    for count in range(2, 21):
        median = 1 + (count - 1) // 2 / 10
        np.testing.assert_allclose(anatomy.hand_scales(rising, (np.arange(21) <= count)[None]), median)


def test_deviation_of_the_proportions():
    """Half of the bones longer by the factor e^0.4: the standard deviation of the logarithms is 0.2."""
    odd = stretched(np.exp(0.4), slice(0, 10))
    assert anatomy.bone_deviation(np.stack([odd, odd * 3])) == pytest.approx(0.2)
    np.testing.assert_allclose(anatomy.bone_deviations(np.stack([straight(), odd, odd * 3])), [0, 0.2, 0.2], atol=1e-9)
    np.testing.assert_allclose(anatomy.bone_deviations(odd[None] / 1000), 0.2)  # in metres
    flat = np.repeat(straight()[:1], 21, 0)[None]  # all joints at one place
    assert np.isfinite(anatomy.bone_deviation(flat)) and np.isfinite(anatomy.bone_deviations(flat)).all()


def test_share_of_hands_that_bend_towards_their_palm():
    """The camera looks at the back of a right hand: fingers that move away from it bend towards the palm."""
    curled, raised = straight(), straight()
    for joints, away in ((curled, 1), (raised, -1)):
        joints[[4, 8, 12, 16, 20], 2] += 30 * away
    assert anatomy.bending_share(np.stack([curled, curled, curled, raised])) == 0.75
    assert anatomy.bending_share(np.stack([curled, curled, raised]) * [-1, 1, 1]) == pytest.approx(1 / 3)  # mirrored
    assert anatomy.bending_share(straight()[None]) == 0


def test_bending_is_the_sign_of_a_volume():
    """Of the box that the two edges of the palm and the mean direction of the fingers span."""
    joints = np.random.default_rng(0).normal(0, 50, (99, 21, 3))
    wrist, thumb, index, *_, little = joints[:, [0, 4, 5, 9, 13, 17]].swapaxes(0, 1)
    fingers = (joints[:, 8:21:4] - joints[:, 5:18:4]).mean(1) + thumb - wrist
    volume = np.linalg.det(np.stack([index - wrist, little - wrist, fingers], 1))
    assert [anatomy.bending_share(hand[None]) == 1 for hand in joints] == (volume > 0).tolist()


def curled(scale=1.0) -> np.ndarray:
    joints = np.stack([layouts.hand(seed, at=(0, 0, 600)) for seed in range(6)])
    size = anatomy.hand_scale(joints)
    return (joints - joints[:, :1]) * scale / size + joints[:, :1]


def test_sound_labels_have_no_warning():
    for scale in (0.56, 1.0, 1.69):
        assert anatomy.label_warnings(curled(scale)) == []


@pytest.mark.parametrize(
    ("scale", "unit"),
    [(0.54, "centimetres"), (1.71, "tenths of mm"), (1e-3, "metres"), (0.1, "centimetres"), (1 / 25.4, "inches")],
)
def test_sizes_of_no_hand_are_named(scale, unit):
    [warning] = anatomy.label_warnings(curled(scale))
    assert warning.startswith(f"bones are {scale:.3g} times as long as an adult's: in ")
    assert f"in {unit} and not in mm?" in warning


def test_hands_behind_the_camera():
    assert "behind the camera" in anatomy.label_warnings(curled() * [1, -1, -1])[0]
    flat = curled()
    for depth, warned in ((0, True), (0.5, False)):
        flat[..., 2] = np.where(np.arange(21) < 11, depth, flat[..., 2])  # more than half of the joints
        assert any("behind the camera" in line for line in anatomy.label_warnings(flat)) == warned


def test_mirrored_hands():
    [warning] = anatomy.label_warnings(curled() * [-1, 1, 1])
    assert warning.startswith("only 0% of the hands bend towards their palm")
    some = curled()
    some[:5] *= [-1, 1, 1]  # one of six bends as a right hand does
    assert anatomy.label_warnings(some)[0].startswith("only 17%")
    some[4] *= [-1, 1, 1]  # two of six: above the limit of 30 %
    assert anatomy.label_warnings(some) == []


@pytest.mark.parametrize("order", ["rhd", "interhand", "mano", "mano_tips_thumb_last"])
def test_joints_in_the_order_of_another_data_set(order):
    [warning] = anatomy.label_warnings(from_our_order(curled(), order))
    names = [name for name, other in JOINT_ORDERS.items() if other == JOINT_ORDERS[order]]
    assert any(f"the joints seem to be ordered as in {name}: " in warning for name in names)


def test_bones_that_fit_no_order():
    [warning] = anatomy.label_warnings(stretched(3.0, slice(0, 20, 2))[None])
    assert warning == (
        "bone lengths fit no hand in any known joint order: deviation 0.55, real hands have at most 0.16"
    )
    slightly = stretched(np.exp(2 * 0.29), slice(0, 20, 2))[None]  # a deviation of 0.29, below the limit of 0.3
    assert not any("bone lengths" in line for line in anatomy.label_warnings(slightly))
    more = stretched(np.exp(2 * 0.31), slice(0, 20, 2))[None]
    assert any("bone lengths" in line for line in anatomy.label_warnings(more))
