"""Random scenes of the rendered set in numbers: the same seed stands for the same hands in every version."""

import jax
import numpy as np
import pytest

from jaxhand.data.synthetic import dataset
from tests.support.numbers import assert_summary

# Field of the scenes → its summary, for the views front and all
FRONT = {
    "pose": [0.40409, 0.42414, 0.26453],
    "shape": [0.109027, 0.784353, 1.33422],
    "joints": [189.293, 213.331, 54.5043],
    "frames": [-0.11035, 0.49642, 0.731599],
    "cones.start": [201.574, 217.823, 191.136],
    "cones.end": [195.564, 217.245, 185.899],
    "cones.start_radius": [11.3657, 11.3657, 0.271877],
    "cones.end_radius": [10.2843, 10.2843, -2.24493],
    "window": [0.147121, 0.176846, 0.0957434],
    "skin": [0.282614, 0.282614, 0.295129],
    "sleeve": [0.510301, 0.510301, 0.170906],
    "nails": [0.045279, 0.045279, 0.0321466],
    "light": [-0.266805, 0.518256, 0.016864],
    "light_color": [1.03636, 1.03636, 0.919814],
    "ambient": [0.405944, 0.405944, -0.563568],
    "object_start": [197.236, 211.407, 219.678],
    "object_end": [194.332, 219.286, 244.931],
    "object_radius": [17.0385, 17.0385, -14.8365],
    "object_axes": [-0.0472398, 0.503284, 1.01913],
    "object_half_size": [23.4287, 23.4287, 7.16847],
    "object_kind": [0.1875, 0.1875, -0.29952],
    "object_color": [0.325063, 0.325063, 0.200802],
    "wall": [196.375, 196.449, 169.086],
    "wall_color": [0.413866, 0.413866, 0.645952],
    "wall_pattern": [0.559569, 1.90416, -0.869967],
    "clutter": [3.94521, 4.09279, -20.1008],
    "clutter_color": [0.405864, 0.405864, -0.315064],
    "blur": [0.111188, 0.111188, -0.154945],
    "grain": [0.016024, 0.016024, -0.0163211],
    "sensor": [0.744572, 1.04297, -1.1575],
    "holes": [0.0132187, 0.169045, -0.111641],
    "salt": [8103710.0, 8103710.0, -2877110.0],
}
ALL = FRONT | {
    "joints": [189.293, 213.132, 46.0327],
    "frames": [-0.0315995, 0.493317, -0.0178513],
    "cones.start": [193.635, 219.852, 212.073],
    "cones.end": [191.538, 218.085, 271.72],
    "window": [0.146373, 0.179573, 0.105821],
    "object_start": [195.515, 217.38, 226.68],
    "object_end": [192.626, 215.175, 216.812],
    "object_axes": [-0.026171, 0.497898, -0.765765],
    "wall": [200.367, 200.441, 221.345],
}


@pytest.mark.parametrize(("view", "expected"), [("front", FRONT), ("all", ALL)])
def test_scenes_stay(view, expected):
    """The first sixteen scenes of seed 0: poses, cameras, colours, lights, walls, objects and sensors."""
    scenes = dataset.sample_scenes(0, np.arange(16), view)
    fields = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(scenes)
    }
    assert fields.keys() == expected.keys()
    for name, leaf in fields.items():
        assert_summary(leaf, expected[name])
