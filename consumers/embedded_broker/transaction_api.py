"""Answers about idempotent and transactional producers."""

import time
from typing import Any

from kafka.protocol import producer

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.state import BrokerState, Transaction


class TransactionApi:
    """Handlers of the requests about transactions; `fault` is an error code to answer with instead.

    Args:
        state: the broker's state.
    """

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    def init_producer(self, request: Any, version: int, fault: int) -> Any:
        """A producer's id and epoch."""
        number, epoch = (
            (-1, -1)
            if fault
            else self._state.new_producer(request.transactional_id, request.transaction_timeout_ms / 1000)
        )
        return producer.InitProducerIdResponse(
            version=version, error_code=fault, producer_id=number, producer_epoch=epoch
        )

    def _find(self, request: Any) -> tuple[Transaction | None, int]:
        transaction = self._state.find_transaction(
            request.transactional_id, request.producer_id, request.producer_epoch
        )
        return transaction, Code.NONE if transaction else Code.INVALID_PRODUCER_EPOCH

    def add_partitions(self, request: Any, version: int, fault: int) -> Any:
        """Partitions that the open transaction writes to."""
        response = producer.AddPartitionsToTxnResponse
        result = response.AddPartitionsToTxnTopicResult
        transaction = self._state.find_transaction(
            request.v3_and_below_transactional_id,
            request.v3_and_below_producer_id,
            request.v3_and_below_producer_epoch,
        )
        code = fault or (Code.NONE if transaction else Code.INVALID_PRODUCER_EPOCH)
        topics = []
        for topic in request.v3_and_below_topics:
            if transaction is not None and not code:
                transaction.began = transaction.began or time.monotonic()
                transaction.partitions |= {(topic.name, partition) for partition in topic.partitions}
            parts = [
                result.AddPartitionsToTxnPartitionResult(partition_index=p, partition_error_code=code)
                for p in topic.partitions
            ]
            topics.append(result(name=topic.name, results_by_partition=parts))
        return response(version=version, results_by_topic_v3_and_below=topics)

    def add_offsets(self, request: Any, version: int, fault: int) -> Any:
        """A group whose offsets the open transaction commits."""
        _, code = self._find(request)
        return producer.AddOffsetsToTxnResponse(version=version, error_code=fault or code)

    def commit_offsets(self, request: Any, version: int, fault: int) -> Any:
        """Offsets that count once the transaction does."""
        response = producer.TxnOffsetCommitResponse
        answer = response.TxnOffsetCommitResponseTopic
        transaction, code = self._find(request)
        code = fault or code
        topics = []
        for topic in request.topics:
            if transaction is not None and not code:
                transaction.offsets += [
                    (
                        request.group_id,
                        topic.name,
                        p.partition_index,
                        p.committed_offset,
                        p.committed_metadata,
                    )
                    for p in topic.partitions
                ]
            parts = [
                answer.TxnOffsetCommitResponsePartition(partition_index=p.partition_index, error_code=code)
                for p in topic.partitions
            ]
            topics.append(answer(name=topic.name, partitions=parts))
        return response(version=version, topics=topics)

    def end(self, request: Any, version: int, fault: int) -> Any:
        """Commit or abort."""
        transaction, code = self._find(request)
        code = fault or code
        if transaction is not None and not code:
            self._state.end_transaction(transaction, request.committed)
        return producer.EndTxnResponse(version=version, error_code=code)
