"""The files of tiles, in the folder that they were indexed from, where the server is told it."""

from __future__ import annotations

from pathlib import Path

from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import thumbnail
from macl_tf.datasets.picture_kinds import PictureError
from macl_tf.index.view import View
from macl_tf.search.query import NotThereError, check_there

LARGE = 1024  # longest side in pixels of what is drawn of a tile


class Originals:
    """Tiles of an index as files of `folder`, below which their paths lie; None where nobody may have them."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--tiles must be the folder of the tiles, got '{folder}', which is none.")
        self.folder = folder and folder.resolve()

    def file(self, snapshot: View, id_: str) -> Path:
        """Where the file of a tile is. A NotThereError says why there is none; nothing outside the folder is one."""
        path = self._path(snapshot, id_)
        if not path.is_file():
            raise _absent(id_)
        return path

    def picture(self, snapshot: View, id_: str, reader: Reader, max_pixels: int) -> bytes:
        """A JPEG of a tile as `reader` shows it, its longest side 1024 pixels at most; errors as of `file`."""
        path = self._path(snapshot, id_)
        if not all(part.is_file() for part in reader.files(path)):
            raise _absent(id_)
        try:
            return thumbnail(reader.show(reader.read(path, id_, max_pixels=max_pixels)), LARGE)
        except PictureError:
            raise _absent(id_) from None

    def _path(self, snapshot: View, id_: str) -> Path:
        check_there(snapshot, id_)
        if self.folder is None:
            remedy = (
                "Its small picture is at /thumbnail. Who runs the server names the folder: macl serve --tiles FOLDER"
            )
            raise NotThereError("this server has no files of tiles", id_, remedy)
        told = snapshot.describe(id_)["path"]
        path = (self.folder / told).resolve() if told else self.folder
        if path == self.folder or not path.is_relative_to(self.folder):
            raise _absent(id_)
        return path


def _absent(id_: str) -> NotThereError:
    return NotThereError("the tile has no file", id_, "Its small picture is at /thumbnail.")
