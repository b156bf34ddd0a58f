"""Sound that libsndfile does not know, through PyAV, whose wheel brings its own FFmpeg: AAC, ALAC, WMA, AMR, ..."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from foundation.errors import Note, UserError
from foundation.modalities.audio.errors import AudioError
from foundation.modalities.video.pyav import library, looks_cut_off, open_container

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Formats that hold their own sound. FFmpeg goes by content, and others of its formats are lists of files and addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,ac3,eac3,amr,wv,ogg,caf,wav,aiff,mp3"


class FFmpeg:
    """The sound of one file, block by block.

    Args:
        data: the file.
        kind: what it is, for messages.

    Attributes:
        rate: Hz.
        channels: of the file.
        promised: 0: containers say how long they are in ticks, and codecs add silence at both ends.
        fractions: False: codecs that lose something may exceed full scale a little.
        notes: where there are several tracks of sound, that the first is read.

    Raises:
        AudioError: no sound, or nothing that can be read.
        UserError: PyAV is not installed.
    """

    promised = 0
    fractions = False

    def __init__(self, data: bytes, kind: str) -> None:
        try:
            self._av = library()
        except UserError as error:
            raise UserError(f"a {kind} file: {error}") from None
        self._data, self._kind = data, kind
        with self._open() as container:
            if not container.streams.audio:
                raise AudioError("missing", f"the {kind} file has no track of sound")
            if container.streams.audio[0].codec_context is None:
                raise AudioError("decode", "the file does not say with which codec it was made, or with an unknown one")
            several = len(container.streams.audio)
            said = Note("conflict", f"{several} tracks of sound; the first is read")
            self.notes: tuple[Note, ...] = (said,) if several > 1 else ()
            try:
                first = next(container.decode(container.streams.audio[0]), None)
            except self._av.error.FFmpegError as error:
                raise self._damaged(error) from error
            if first is None:
                raise AudioError("empty", f"a {kind} file without a single sample")
            # By what is decoded: the header of HE-AAC says half the rate.
            self.rate, self.channels = int(first.sample_rate), len(first.layout.channels)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Blocks [n, channels], full scale 1.

        Raises:
            AudioError: damaged, cut off, or its rate or channels change.
        """
        av = self._av
        convert, found = None, False
        with self._open() as container:
            stream = container.streams.audio[0]
            stream.thread_type = "NONE"
            try:
                for frame in container.decode(stream):
                    if (frame.sample_rate, len(frame.layout.channels)) != (self.rate, self.channels):
                        now = f"{len(frame.layout.channels)} channels at {frame.sample_rate} Hz"
                        raise AudioError("shape", f"{self.channels} channels at {self.rate} Hz become {now}")
                    convert = convert or av.AudioResampler(format="fltp", layout=frame.layout, rate=self.rate)
                    for piece in convert.resample(frame):
                        found = True
                        yield piece.to_ndarray().T
            except av.error.FFmpegError as error:
                raise self._damaged(error) from error
        if found and looks_cut_off(self._data):
            raise AudioError("truncated", "the file says that it is longer than it is")

    def _open(self) -> Any:
        try:
            return open_container(self._data, _FORMATS)
        except self._av.error.FFmpegError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> AudioError:
        return AudioError("truncated" if looks_cut_off(self._data) else "decode", f"{self._kind}: {error}")
