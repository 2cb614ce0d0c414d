"""The wire: connections, request dispatch, injected faults."""

import asyncio
import inspect
import logging
import signal
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kafka.protocol import admin, consumer, metadata, producer

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.data_api import DataApi
from consumers.embedded_broker.group_api import GroupApi
from consumers.embedded_broker.state import BrokerState
from consumers.embedded_broker.transaction_api import TransactionApi
from qanchor.errors import BrokerUnavailable

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_API_VERSIONS: Final = 18
_LARGEST_REQUEST: Final = 100 << 20
_TICK_SECONDS: Final = 0.05


class _Handler(NamedTuple):
    request: Any
    lowest: int
    highest: int
    answer: Callable[[Any, int, int], Any]


@dataclass(frozen=True)
class Fault:
    """A fault that a test injects into one request.

    Args:
        code: answer with this error code.
        delay_seconds: wait before the work.
        disconnect: hang up instead of doing the work.
        lose_answer: do the work, then hang up instead of answering.
    """

    code: int = 0
    delay_seconds: float = 0.0
    disconnect: bool = False
    lose_answer: bool = False


_NO_FAULT: Final = Fault()


class EmbeddedBroker:
    """The broker; everything happens on the event loop that `start` ran on.

    Args:
        folder: folder of its log.
        port: 0 takes a free one.
        partitions: of a topic that is created by its first use.
    """

    def __init__(self, folder: Path, port: int = 9092, partitions: int = 4) -> None:
        self.port = port
        self.faults: dict[int, deque[Fault]] = defaultdict(deque)  # by API key, used up in order
        self.requests: dict[int, int] = defaultdict(int)
        self._folder, self._partitions = folder, partitions
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """host:port, once it is started."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Read the log and listen.

        Raises:
            BrokerUnavailable: the port is taken; stop the other process or choose another port.
        """
        self.state = BrokerState(self._folder, self._partitions)
        try:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
        except OSError as error:
            self.state.close()
            raise BrokerUnavailable(
                f"port {self.port} of {HOST} cannot be listened on: {error.strerror}",
                "Stop the process that holds it, or pass --port and set QANCHOR_KAFKA__BROKERS.",
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._handlers = self._table()
        self._ticker = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Hang up on everyone, force the log to the disk."""
        self._ticker.cancel()
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        self.state.close()

    def _table(self) -> dict[int, _Handler]:
        data, groups = DataApi(self.state, HOST, self.port), GroupApi(self.state, HOST, self.port)
        transactions = TransactionApi(self.state)
        listed = [
            _Handler(producer.ProduceRequest, 3, 8, data.produce),
            _Handler(consumer.FetchRequest, 4, 11, data.fetch),
            _Handler(consumer.ListOffsetsRequest, 1, 5, data.list_offsets),
            _Handler(metadata.MetadataRequest, 0, 11, data.metadata),
            _Handler(admin.CreateTopicsRequest, 0, 5, data.create_topics),
            _Handler(admin.DeleteTopicsRequest, 1, 5, data.delete_topics),
            _Handler(admin.CreatePartitionsRequest, 0, 3, data.create_partitions),
            _Handler(admin.DeleteRecordsRequest, 0, 2, data.delete_records),
            _Handler(metadata.FindCoordinatorRequest, 0, 3, groups.find_coordinator),
            _Handler(consumer.JoinGroupRequest, 0, 7, groups.join),
            _Handler(consumer.SyncGroupRequest, 0, 5, groups.sync),
            _Handler(consumer.HeartbeatRequest, 0, 4, groups.heartbeat),
            _Handler(consumer.LeaveGroupRequest, 0, 4, groups.leave),
            _Handler(consumer.OffsetCommitRequest, 2, 8, groups.commit_offsets),
            _Handler(consumer.OffsetFetchRequest, 1, 7, groups.fetch_offsets),
            _Handler(admin.ListGroupsRequest, 0, 4, groups.list_groups),
            _Handler(admin.DescribeGroupsRequest, 0, 5, groups.describe_groups),
            _Handler(producer.InitProducerIdRequest, 0, 4, transactions.init_producer),
            _Handler(producer.AddPartitionsToTxnRequest, 0, 3, transactions.add_partitions),
            _Handler(producer.AddOffsetsToTxnRequest, 0, 3, transactions.add_offsets),
            _Handler(producer.TxnOffsetCommitRequest, 0, 3, transactions.commit_offsets),
            _Handler(producer.EndTxnRequest, 0, 3, transactions.end),
            _Handler(metadata.ApiVersionsRequest, 0, 4, self._api_versions),
        ]
        return {handler.request.API_KEY: handler for handler in listed}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.state.end_expired_transactions(time.monotonic())
            for group in self.state.groups.values():
                group.drop_silent()
                group.complete_if_due()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            while await self._answer_next(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False hangs up."""
        size = struct.unpack(">i", await reader.readexactly(4))[0]
        if not 8 <= size <= _LARGEST_REQUEST:
            return False
        request = await reader.readexactly(size)
        key = struct.unpack_from(">h", request)[0]
        self.requests[key] += 1
        fault = self.faults[key].popleft() if self.faults.get(key) else _NO_FAULT
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        if fault.disconnect or key not in self._handlers:
            return False
        try:
            answer = await self._answer(key, request, fault.code)
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
            log.warning("broker_bad_request api=%d error=%r", key, error)
            return False
        if answer is not None and not fault.lose_answer:
            writer.write(answer)
            await writer.drain()
        return not fault.lose_answer

    async def _answer(self, key: int, data: bytes, fault: int) -> bytes | None:
        version, correlation = struct.unpack_from(">hi", data, 2)
        handler = self._handlers[key]
        if not handler.lowest <= version <= handler.highest:
            # A client that knows newer versions asks again with one from this answer.
            version, response = 0, self._api_versions(None, 0, Code.UNSUPPORTED_VERSION)
            if key != _API_VERSIONS:
                return None
        else:
            response = handler.answer(
                handler.request.decode(data, version=version, header=True), version, fault
            )
            if inspect.isawaitable(response):
                response = await response
        if response is None:
            return None
        response._header = None
        response.API_VERSION = version
        response.with_header(correlation_id=correlation)
        encoded: bytes = response.encode(header=True, framed=True)
        return encoded

    def _api_versions(self, _request: Any, version: int, fault: int) -> Any:
        entry = metadata.ApiVersionsResponse.ApiVersion
        keys = [
            entry(api_key=key, min_version=handler.lowest, max_version=handler.highest)
            for key, handler in sorted(self._handlers.items())
        ]
        return metadata.ApiVersionsResponse(version=version, error_code=fault, api_keys=keys)


async def run_broker(broker: EmbeddedBroker, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end cleanly.

    Args:
        broker: not yet started.
        started: called once it listens.

    Raises:
        BrokerUnavailable: the port is taken.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await broker.start()
    started()
    with suppress(asyncio.CancelledError):
        await stopping.wait()
    await broker.stop()
