"""Answers about consumer groups: joining, heartbeats, offsets."""

from collections import defaultdict
from typing import Any

from kafka.protocol import admin, consumer, metadata

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.groups import Group, GroupState, JoinRequest, Member
from consumers.embedded_broker.state import BrokerState


class GroupApi:
    """Handlers of the requests that are about groups; `fault` is an error code to answer with instead.

    Args:
        state: the broker's state.
        host: as clients reach it.
        port: as clients reach it.
    """

    def __init__(self, state: BrokerState, host: str, port: int) -> None:
        self._state = state
        self._host, self._port = host, port

    def find_coordinator(self, _request: Any, version: int, fault: int) -> Any:
        """The coordinator is this broker."""
        return metadata.FindCoordinatorResponse(
            version=version, error_code=fault, error_message=None, node_id=1, host=self._host, port=self._port
        )

    async def join(self, request: Any, version: int, fault: int) -> Any:
        """Admit a member to the next generation."""
        response = consumer.JoinGroupResponse
        joining = JoinRequest(
            member=request.member_id,
            instance=request.group_instance_id if version >= 5 else None,
            client=request.header.client_id or "client",
            protocols=tuple((p.name, bytes(p.metadata)) for p in request.protocols),
            session_seconds=request.session_timeout_ms / 1000,
            rebalance_seconds=(request.rebalance_timeout_ms if version >= 1 else request.session_timeout_ms)
            / 1000,
            must_have_id=version >= 4,
        )
        if fault:
            return response(
                version=version,
                error_code=fault,
                generation_id=-1,
                protocol_type=None,
                protocol_name="",
                leader="",
                member_id=request.member_id,
                members=[],
            )
        joined = await self._state.group(request.group_id).join(joining)
        members = [
            response.JoinGroupResponseMember(member_id=name, group_instance_id=instance, metadata=data)
            for name, instance, data in joined.members
        ]
        return response(
            version=version,
            error_code=joined.code,
            generation_id=joined.generation,
            protocol_type=None if joined.code else "consumer",
            protocol_name=joined.protocol,
            leader=joined.leader,
            member_id=joined.member,
            members=members,
        )

    def _check(
        self, group: str, member: str, generation: int, instance: str | None = None
    ) -> tuple[Group | None, Member | None, int]:
        known = self._state.groups.get(group)
        if known is None:
            return None, None, Code.UNKNOWN_MEMBER
        current, code = known.check(member, generation, instance)
        return known, current, code

    async def sync(self, request: Any, version: int, fault: int) -> Any:
        """What a member owns; the leader brings everyone's share."""
        instance = request.group_instance_id if version >= 3 else None
        group, member, code = self._check(
            request.group_id, request.member_id, request.generation_id, instance
        )
        code, assignment = fault or code, b""
        if group is not None and member is not None and not code:
            shares = {a.member_id: bytes(a.assignment) for a in request.assignments}
            code, assignment = await group.sync(member, shares)
        return consumer.SyncGroupResponse(
            version=version,
            error_code=code,
            protocol_type="consumer",
            protocol_name=group.protocol if group else None,
            assignment=assignment,
        )

    def heartbeat(self, request: Any, version: int, fault: int) -> Any:
        """Alive; the answer says when a rebalance is on."""
        instance = request.group_instance_id if version >= 3 else None
        group, _, code = self._check(request.group_id, request.member_id, request.generation_id, instance)
        if group is not None and not code and group.state is GroupState.PREPARING:
            code = Code.REBALANCE_IN_PROGRESS
        return consumer.HeartbeatResponse(version=version, error_code=fault or code)

    def leave(self, request: Any, version: int, fault: int) -> Any:
        """Members go; the others rebalance."""
        response = consumer.LeaveGroupResponse
        group = self._state.groups.get(request.group_id)
        first, answers = fault, []
        for leaver in request.members if version >= 3 else [request]:
            instance = leaver.group_instance_id if version >= 3 else None
            name = leaver.member_id or (group.find_instance(instance) if group else "")
            known = group is not None and name in group.members
            code = Code.NONE if known else Code.UNKNOWN_MEMBER
            if group is not None and known:
                group.drop(name)
            if version >= 3:
                answers.append(
                    response.MemberResponse(
                        member_id=leaver.member_id, group_instance_id=instance, error_code=code
                    )
                )
            else:
                first = first or code
        return response(version=version, error_code=first, members=answers)

    def commit_offsets(self, request: Any, version: int, fault: int) -> Any:
        """Remember how far a group has read."""
        response = consumer.OffsetCommitResponse
        answer = response.OffsetCommitResponseTopic
        code, generation = fault, request.generation_id_or_member_epoch
        if not code and (generation >= 0 or request.member_id):
            instance = request.group_instance_id if version >= 7 else None
            group, _, code = self._check(request.group_id, request.member_id, generation, instance)
            if group is not None and not code and group.state is GroupState.COMPLETING:
                code = Code.REBALANCE_IN_PROGRESS
        topics = []
        for topic in request.topics:
            for p in topic.partitions if not code else ():
                self._state.put_offset(
                    request.group_id,
                    topic.name,
                    p.partition_index,
                    p.committed_offset,
                    p.committed_metadata or "",
                )
            parts = [
                answer.OffsetCommitResponsePartition(partition_index=p.partition_index, error_code=code)
                for p in topic.partitions
            ]
            topics.append(answer(name=topic.name, partitions=parts))
        return response(version=version, topics=topics)

    def fetch_offsets(self, request: Any, version: int, fault: int) -> Any:
        """How far a group has read."""
        response = consumer.OffsetFetchResponse
        answer = response.OffsetFetchResponseTopic
        held = self._state.offsets.get(request.group_id, {})
        requested: dict[str, list[int]] = defaultdict(list)
        if request.topics is None:
            for topic, partition in held:
                requested[topic].append(partition)
        else:
            requested.update({topic.name: topic.partition_indexes for topic in request.topics})
        topics = []
        for topic, partitions in requested.items():
            parts = []
            for partition in partitions:
                offset, note = held.get((topic, partition), (-1, ""))
                parts.append(
                    answer.OffsetFetchResponsePartition(
                        partition_index=partition,
                        committed_offset=offset,
                        committed_leader_epoch=-1,
                        metadata=note,
                        error_code=0,
                    )
                )
            topics.append(answer(name=topic, partitions=parts))
        return response(version=version, error_code=fault, topics=topics)

    def list_groups(self, _request: Any, version: int, fault: int) -> Any:
        """Every group."""
        groups = [
            admin.ListGroupsResponse.ListedGroup(
                group_id=group.name, protocol_type="consumer", group_state=group.state.value
            )
            for group in self._state.groups.values()
        ]
        return admin.ListGroupsResponse(version=version, error_code=fault, groups=groups)

    def describe_groups(self, request: Any, version: int, fault: int) -> Any:
        """Members and what they own."""
        described = admin.DescribeGroupsResponse.DescribedGroup
        groups = []
        for name in request.groups:
            group = self._state.groups.get(name)
            members = (
                [
                    described.DescribedGroupMember(
                        member_id=m.id,
                        group_instance_id=m.instance,
                        client_id="",
                        client_host="",
                        member_metadata=dict(m.protocols).get(group.protocol, b""),
                        member_assignment=m.assignment,
                    )
                    for m in group.members.values()
                ]
                if group
                else []
            )
            groups.append(
                described(
                    error_code=fault,
                    group_id=name,
                    group_state=group.state.value if group else "Dead",
                    protocol_type="consumer",
                    protocol_data=group.protocol if group else "",
                    members=members,
                )
            )
        return admin.DescribeGroupsResponse(version=version, groups=groups)
