"""Write meshes to files for other programs: Wavefront OBJ and binary glTF (GLB).

OBJ defines no unit and no axes: ours are mm in the OpenCV camera frame (x right, y down, z forward), as in all other
files of jaxhand. glTF requires metres and y up. So a GLB is rotated by 180° about x; viewers show the camera's view.
"""

import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError

KINDS = ("obj", "glb")
TO_GLTF = np.diag([1e-3, -1e-3, -1e-3, 1.0])  # mm, y down, z forward → m, y up, z backward


def write(path: str | Path, meshes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write meshes to one file, each as a separate object.

    Args:
        path: ends in .obj or .glb, which selects the format.
        meshes: name → (vertices (V, 3) mm in the OpenCV camera frame, faces (F, 3)); normals point outward by the
            right-hand rule.

    Raises:
        UserError: the file cannot be written.
    """
    import trimesh  # imported here: the import takes half a second, and only this function needs trimesh

    path, scene = Path(path), trimesh.Scene()
    for name, (vertices, faces) in meshes.items():
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        scene.add_geometry(mesh.apply_transform(TO_GLTF) if path.suffix == ".glb" else mesh, name, name)
    content: typing.Any = scene.export(file_type=path.suffix[1:], include_normals=True)  # for smooth shading
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
