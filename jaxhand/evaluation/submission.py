"""Write the predictions of a run on a test set to a file for the leaderboard of FreiHAND, HO-3D or DexYCB.

FreiHAND: metres in the camera frame. HO-3D: metres in OpenGL's camera frame and HO-3D's joint order; the hands are
moved to the published wrists. DexYCB: millimetres in the camera frame, with the image ids of the DexYCB toolkit.
"""

from pathlib import Path

from jaxhand.config import UserError
from jaxhand.data.record import Record, Source
from jaxhand.evaluation.prediction_files import write_dexycb, write_freihand
from jaxhand.evaluation.run_predictions import PredictionCollector, to_ho3d, to_wrist
from jaxhand.hand.camera import FROM_OPENGL
from jaxhand.io import output_files

SUFFIXES = {"freihand": (".json", ".zip"), "ho3d": (".json", ".zip"), "dexycb": (".txt", ".csv")}


class Submission:
    """The file for the leaderboard of a test set. The name of the file is checked before the predictions start.

    Args:
        name: name of the test set, as in `data.test`.
        source: the complete test split.
        path: path of the file.

    Raises:
        UserError: the test set has no leaderboard, `path` has the wrong suffix, the folder of `path` does not exist,
            or the file needs image ids but the source is a packed set, which has none.
    """

    def __init__(self, name: str, source: Source, path: str | Path):
        kind, _, where = name.partition(":")
        self._kind, self._path = kind.partition("-")[0], Path(path).expanduser()
        if self._kind not in SUFFIXES:
            raise UserError(f"{name}: has no leaderboard file, only {', '.join(SUFFIXES)} have one; leave out --submit")
        suffixes = SUFFIXES[self._kind]
        if self._path.suffix not in suffixes:
            raise UserError(f"{path}: the file for {self._kind} must end in {' or '.join(suffixes)}")
        if not self._path.parent.is_dir():
            raise UserError(f"{self._path.parent}: no such folder for {self._path.name}; create it first")
        if self._kind == "freihand" and where.endswith(".json"):
            raise UserError(f"{where}: not the evaluation set; pass the folder FreiHAND_pub_v2")
        self._ids = getattr(source, "ids", None)  # of DexYCB
        if self._kind == "dexycb" and self._ids is None:
            raise UserError(f"{name}: a packed set has no image ids for --submit, and a part has none; pass the folder")

    def write(self, collector: PredictionCollector, records: list[Record]) -> str:
        """Write the file.

        Args:
            collector: contains the predictions for the source.
            records: the labels of the source. For HO-3D, the predictions are moved to the labelled wrists.

        Returns:
            One sentence about the content of the file.

        Raises:
            UserError: a prediction is not finite, a label of HO-3D has no wrist, or the file cannot be written.
        """
        joints, vertices = collector.points()
        if kept := output_files.keep_aside(self._path):
            print(f"    {self._path} exists: it is now {kept}")
        hands = f"{self._path}: {len(joints):,} hands for the leaderboard of {self._kind}"
        if self._ids is not None:
            write_dexycb(self._path, self._ids, joints)
            return hands
        if self._kind == "ho3d":
            joints, vertices = (to_wrist(points, joints, records) for points in (joints, vertices))
            joints, vertices = to_ho3d(joints), vertices * FROM_OPENGL
        if not vertices.size:  # the servers of the leaderboards reject an empty mesh
            hands += "; the model has no mesh, so the file contains joints instead of vertices: ignore the mesh scores"
            vertices = joints
        write_freihand(self._path, joints / 1000, vertices / 1000)
        return hands
