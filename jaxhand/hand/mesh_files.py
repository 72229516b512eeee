"""Meshes as files that other programs open: Wavefront OBJ and binary glTF (GLB).

OBJ has no unit and no axes: ours are those of all that jaxhand writes, mm in the OpenCV camera frame (x right, y down,
z forward). glTF demands metres and y up, so a GLB is turned half around x; viewers then show what the camera saw.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError

KINDS = ("obj", "glb")
TO_GLTF = np.diag([1e-3, -1e-3, -1e-3, 1.0])  # mm, y down, z forward → m, y up, z backward


def write(path: str | Path, meshes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a file of the kind that its name ends in, with every mesh as an object of its own.

    Args:
        path: ends in .obj or .glb.
        meshes: name → vertices (V, 3) mm in the OpenCV camera frame, and faces (F, 3), outward by the right-hand rule.

    Raises:
        UserError: the file cannot be written.
    """
    import trimesh  # here: it takes half a second, which only those pay who write meshes

    path, scene = Path(path), trimesh.Scene()
    for name, (vertices, faces) in meshes.items():
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        scene.add_geometry(mesh.apply_transform(TO_GLTF) if path.suffix == ".glb" else mesh, name, name)
    content = scene.export(file_type=path.suffix[1:], include_normals=True)  # viewers shade without edges
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
