"""Answers about topics and records: metadata, produce, fetch, offsets by time."""

import asyncio
import time
import uuid
from contextlib import suppress
from typing import Any

from kafka.protocol import admin, consumer, metadata, producer

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.state import BrokerState

_LATEST, _EARLIEST = -1, -2


class DataApi:
    """Handlers of the requests that are about data; `fault` is an error code to answer with instead.

    Args:
        state: the broker's state.
        host: as clients reach it.
        port: as clients reach it.
    """

    def __init__(self, state: BrokerState, host: str, port: int) -> None:
        self._state = state
        self._host, self._port = host, port

    def metadata(self, request: Any, version: int, fault: int) -> Any:
        """Where the partitions are: all of them here."""
        response = metadata.MetadataResponse
        described = response.MetadataResponseTopic
        every = request.topics is None or (version == 0 and not request.topics)
        names = list(self._state.topics) if every else [topic.name for topic in request.topics]
        topics = []
        for name in names:
            may_create = version < 4 or request.allow_auto_topic_creation
            code = Code.NONE if name in self._state.topics else Code.UNKNOWN_PARTITION
            if code and may_create:
                code = self._state.create_topic(name, 0)
            partitions = [
                described.MetadataResponsePartition(
                    error_code=fault,
                    partition_index=i,
                    leader_id=1,
                    leader_epoch=0,
                    replica_nodes=[1],
                    isr_nodes=[1],
                    offline_replicas=[],
                )
                for i in self._state.topics.get(name, {})
            ]
            number = self._state.topic_ids.get(name, uuid.UUID(int=0))
            topics.append(
                described(
                    error_code=code, name=name, topic_id=number, is_internal=False, partitions=partitions
                )
            )
        node = response.MetadataResponseBroker(node_id=1, host=self._host, port=self._port, rack=None)
        return response(
            version=version, brokers=[node], cluster_id="qanchor-embedded", controller_id=1, topics=topics
        )

    def create_topics(self, request: Any, version: int, fault: int) -> Any:
        """Create topics."""
        response = admin.CreateTopicsResponse
        results = []
        for topic in request.topics:
            code = fault or self._state.create_topic(topic.name, topic.num_partitions)
            count = len(self._state.topics.get(topic.name, {}))
            results.append(
                response.CreatableTopicResult(
                    name=topic.name,
                    error_code=code,
                    error_message=None,
                    num_partitions=count,
                    replication_factor=1,
                    configs=[],
                )
            )
        return response(version=version, topics=results)

    def create_partitions(self, request: Any, version: int, fault: int) -> Any:
        """Add partitions to topics."""
        response = admin.CreatePartitionsResponse
        results = [
            response.CreatePartitionsTopicResult(
                name=topic.name,
                error_code=fault or self._state.create_partitions(topic.name, topic.count),
                error_message=None,
            )
            for topic in request.topics
        ]
        return response(version=version, results=results)

    def delete_records(self, request: Any, version: int, fault: int) -> Any:
        """Forget records before an offset; -1 stands for the end."""
        response = admin.DeleteRecordsResponse
        result = response.DeleteRecordsTopicResult
        topics = []
        for topic in request.topics:
            answers = []
            for requested in topic.partitions:
                partition = self._state.partition(topic.name, requested.partition_index)
                code = fault or (Code.NONE if partition else Code.UNKNOWN_PARTITION)
                if partition is not None and not code:
                    partition.delete_before(requested.offset if requested.offset >= 0 else partition.next)
                answers.append(
                    result.DeleteRecordsPartitionResult(
                        partition_index=requested.partition_index,
                        low_watermark=partition.start if partition else -1,
                        error_code=code,
                    )
                )
            topics.append(result(name=topic.name, partitions=answers))
        return response(version=version, topics=topics)

    def delete_topics(self, request: Any, version: int, fault: int) -> Any:
        """Delete topics."""
        response = admin.DeleteTopicsResponse
        results = [
            response.DeletableTopicResult(name=name, error_code=fault or self._state.delete_topic(name))
            for name in request.topic_names
        ]
        return response(version=version, responses=results)

    def produce(self, request: Any, version: int, fault: int) -> Any:
        """Append records; with acks=0 nobody waits for an answer."""
        response = producer.ProduceResponse
        topics = []
        for topic in request.topic_data:
            answers = []
            for data in topic.partition_data:
                partition = self._state.partition(topic.name, data.index)
                code, base = fault, -1
                if partition is None:
                    code = Code.UNKNOWN_PARTITION
                elif not fault:
                    code, base = partition.append(bytes(data.records))
                answers.append(
                    response.TopicProduceResponse.PartitionProduceResponse(
                        index=data.index,
                        error_code=code,
                        base_offset=base,
                        log_append_time_ms=-1,
                        log_start_offset=partition.start if partition else -1,
                    )
                )
            topics.append(response.TopicProduceResponse(name=topic.name, partition_responses=answers))
        self._state.announce()
        return None if request.acks == 0 else response(version=version, responses=topics)

    async def fetch(self, request: Any, version: int, fault: int) -> Any:
        """Records from the requested offsets; waits for `min_bytes` of them, at most `max_wait_ms`."""
        deadline = time.monotonic() + request.max_wait_ms / 1000
        while True:
            arrived = self._state.arrived
            topics, size, failed = self._read(request, fault)
            left = deadline - time.monotonic()
            if size >= request.min_bytes or failed or left <= 0:
                return consumer.FetchResponse(version=version, error_code=0, session_id=0, responses=topics)
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), left)

    def _read(self, request: Any, fault: int) -> tuple[list[Any], int, bool]:
        response = consumer.FetchResponse.FetchableTopicResponse
        topics, size, failed = [], 0, False
        for topic in request.topics:
            answers = []
            for requested in topic.partitions:
                answer = self._read_partition(topic.topic, requested, request, size, fault)
                size += len(answer.records)
                failed = failed or bool(answer.error_code)
                answers.append(answer)
            topics.append(response(topic=topic.topic, partitions=answers))
        return topics, size, failed

    def _read_partition(self, topic: str, requested: Any, request: Any, size: int, fault: int) -> Any:
        data = consumer.FetchResponse.FetchableTopicResponse.PartitionData
        partition = self._state.partition(topic, requested.partition)
        records, aborted, offset = b"", None, requested.fetch_offset
        if partition is None:
            return data(
                partition_index=requested.partition,
                error_code=Code.UNKNOWN_PARTITION,
                high_watermark=-1,
                last_stable_offset=-1,
                log_start_offset=-1,
                aborted_transactions=None,
                preferred_read_replica=-1,
                records=b"",
            )
        code = fault
        if not fault and not partition.start <= offset <= partition.next:
            code = Code.OFFSET_OUT_OF_RANGE
        budget = request.max_bytes - size
        if not code and (budget > 0 or not size):
            end = partition.stable if request.isolation_level else partition.next
            records = partition.read(offset, min(requested.partition_max_bytes, max(budget, 1)), end)
        if request.isolation_level:
            aborted = [
                data.AbortedTransaction(producer_id=a.producer, first_offset=a.first)
                for a in partition.aborted
                if a.marker >= offset
            ]
        return data(
            partition_index=requested.partition,
            error_code=code,
            high_watermark=partition.next,
            last_stable_offset=partition.stable,
            log_start_offset=partition.start,
            aborted_transactions=aborted,
            preferred_read_replica=-1,
            records=records,
        )

    def list_offsets(self, request: Any, version: int, fault: int) -> Any:
        """First, last, or by time."""
        response = consumer.ListOffsetsResponse.ListOffsetsTopicResponse
        topics = []
        for topic in request.topics:
            answers = []
            for requested in topic.partitions:
                code, offset, when = fault, -1, -1
                partition = self._state.partition(topic.name, requested.partition_index)
                if partition is None:
                    code = Code.UNKNOWN_PARTITION
                elif requested.timestamp == _EARLIEST:
                    offset = partition.start
                elif requested.timestamp == _LATEST:
                    committed = version >= 2 and request.isolation_level
                    offset = partition.stable if committed else partition.next
                else:
                    offset, when = partition.offset_at(requested.timestamp)
                answers.append(
                    response.ListOffsetsPartitionResponse(
                        partition_index=requested.partition_index,
                        error_code=code,
                        timestamp=when,
                        offset=offset,
                        leader_epoch=0,
                    )
                )
            topics.append(response(name=topic.name, partitions=answers))
        return consumer.ListOffsetsResponse(version=version, topics=topics)
