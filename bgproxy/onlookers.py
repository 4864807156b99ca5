"""Who looks at a worker's live traffic: they see copies of what has passed, and never steer it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from bgproxy.config.plan import plan_from
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.tap import Tap
from bgproxy.rollout.mirroring import Mirroring
from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.recording import NAME as RECORDING
from bgproxy.rollout.recording import Recorder, records_of, redaction_of
from bgproxy.store.mirror import Mirror

log = logging.getLogger(__name__)


class Onlookers:
    """All of them, on one tap."""

    def __init__(self, plane: DataPlane, known: Mirror, recording: RecordingOptions) -> None:
        self._tap = Tap(plane)
        self._mirroring = Mirroring(self._tap, known, plan_from)
        self.records = records_of(recording) if recording.directory else None  # that are there to be replayed
        self._recorder = Recorder(self.records, redaction_of(recording), recording.share) if self.records else None

    async def start(self) -> None:
        """Record, where that is wished for and can be done; where it cannot, say so, and serve all the same."""
        if self._recorder is None or self.records is None:
            return
        try:
            await asyncio.to_thread(self.records.prepare)
        except OSError as error:
            log.error("no session is recorded: recording.directory cannot be written: %s", error)
            return
        self._recorder.start()
        self._tap.add(RECORDING, self._recorder.wants, self._recorder.take)

    def mirrored(self) -> dict[str, Any]:
        """See `Mirroring.report`."""
        return self._mirroring.report()

    async def stop(self) -> None:
        """Look no more."""
        await self._mirroring.stop()
        if self._recorder is not None:
            self._tap.remove(RECORDING)
            await self._recorder.stop()
