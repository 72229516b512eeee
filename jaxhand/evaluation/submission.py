"""Write a run's predictions on a test set as the file for its leaderboard: FreiHAND, HO-3D, DexYCB.

FreiHAND: metres in the camera frame. HO-3D: metres in OpenGL's frame and its own joint order, moved to the wrist that
the set publishes. DexYCB: millimetres in the camera frame, with the toolkit's ids.
"""

from pathlib import Path

from jaxhand.config import UserError
from jaxhand.data.record import Record, Source
from jaxhand.evaluation.prediction_files import write_dexycb, write_freihand
from jaxhand.evaluation.run_predictions import PredictionCollector, to_ho3d, to_wrist
from jaxhand.hand.camera import FROM_OPENGL

SUFFIXES = {"freihand": (".json", ".zip"), "ho3d": (".json", ".zip"), "dexycb": (".txt", ".csv")}


class Submission:
    """The leaderboard's file of a test set. Mistakes in its name are found before anything is predicted.

    Args:
        name: name of the set, as in `data.test`.
        source: its test split, complete.
        path: the file.

    Raises:
        UserError: the set has no leaderboard, `path` has the wrong suffix or no folder, or the source is packed
            although the file needs ids.
    """

    def __init__(self, name: str, source: Source, path: str | Path):
        kind, _, where = name.partition(":")
        self._kind, self._path = kind.partition("-")[0], Path(path).expanduser()
        if self._kind not in SUFFIXES:
            raise UserError(f"{name} has no leaderboard's file, only {', '.join(SUFFIXES)} have: leave out --submit")
        suffixes = SUFFIXES[self._kind]
        if self._path.suffix not in suffixes:
            raise UserError(f"{path}: the file for {self._kind} must end in {' or '.join(suffixes)}")
        if not self._path.parent.is_dir():
            raise UserError(f"{self._path.parent}: no such folder to write {self._path.name} to; make it first")
        if self._kind == "freihand" and where.endswith(".json"):
            raise UserError(f"{where}: not the evaluation set; name the folder FreiHAND_pub_v2")
        self._ids = getattr(source, "ids", None)  # of DexYCB
        if self._kind == "dexycb" and self._ids is None:
            raise UserError(f"{name}: a packed set lacks the toolkit's ids; name the folder that it was packed from")

    def write(self, collector: PredictionCollector, records: list[Record]) -> str:
        """Write the file.

        Args:
            collector: has the predictions of the source.
            records: its labels; HO-3D's are moved to their wrists.

        Returns:
            One sentence about its content.

        Raises:
            UserError: a prediction is not finite, HO-3D's labels have no wrist, or the file cannot be written.
        """
        joints, vertices = collector.points()
        hands = f"{self._path}: {len(joints):,} hands for the leaderboard of {self._kind}"
        if self._ids is not None:
            write_dexycb(self._path, self._ids, joints)
            return hands
        if self._kind == "ho3d":
            joints, vertices = (to_wrist(points, joints, records) for points in (joints, vertices))
            joints, vertices = to_ho3d(joints), vertices * FROM_OPENGL
        if not vertices.size:  # servers refuse an empty mesh
            hands += "; the model has no mesh, so its joints replace the vertices: mesh scores mean nothing"
            vertices = joints
        write_freihand(self._path, joints / 1000, vertices / 1000)
        return hands
