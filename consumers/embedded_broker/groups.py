"""Consumer groups: who is in, which generation, who owns what. Assigning is the leader's client's work."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from consumers.embedded_broker.codes import Code


class GroupState(StrEnum):
    """As Kafka's own tools print it."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class Joined(NamedTuple):
    """Answer to a member that joined."""

    code: int
    generation: int = -1
    protocol: str = ""
    leader: str = ""
    member: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()


class JoinRequest(NamedTuple):
    """Request of a member to join."""

    member: str
    instance: str | None
    client: str
    protocols: tuple[tuple[str, bytes], ...]
    session_seconds: float
    rebalance_seconds: float
    must_have_id: bool


@dataclass(eq=False)
class Member:
    """One consumer of a group."""

    id: str
    instance: str | None
    protocols: tuple[tuple[str, bytes], ...]
    session_seconds: float
    rebalance_seconds: float
    seen: float = field(default_factory=time.monotonic)
    joining: "asyncio.Future[Joined] | None" = None
    syncing: "asyncio.Future[tuple[int, bytes]] | None" = None
    assignment: bytes = b""
    generation: int = -1
    ended: int = Code.UNKNOWN_MEMBER  # answer to what it waits for when it is taken out

    @property
    def waits_to_join(self) -> bool:
        """It has requested to join the next generation and waits for the others."""
        return self.joining is not None and not self.joining.done()


class Group:
    """One consumer group.

    Args:
        name: the group's id.
        initial_delay_seconds: how long the first generation waits for more members.
    """

    def __init__(self, name: str, initial_delay_seconds: float = 0.1) -> None:
        self.name = name
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol = ""
        self.leader = ""
        self.members: dict[str, Member] = {}
        self._initial_delay_seconds = initial_delay_seconds
        self._pending: set[str] = set()
        self._deadline = self._delay = 0.0

    async def join(self, request: JoinRequest) -> Joined:
        """Admit a member to the next generation; returns when that generation begins."""
        member = self._admit(request)
        if isinstance(member, Joined):
            return member
        is_repeat = request.member == member.id and member.protocols == request.protocols
        member.protocols, member.session_seconds = request.protocols, request.session_seconds
        member.seen = time.monotonic()
        if is_repeat and member.generation == self.generation and self._need_not_rebalance(member):
            return self._current(member)
        member.joining = future = asyncio.get_running_loop().create_future()
        self._rebalance()
        try:
            joined: Joined = await future
        except asyncio.CancelledError:
            return Joined(member.ended, member=member.id)
        return joined

    def _need_not_rebalance(self, member: Member) -> bool:
        # A client whose answer came too late asks again; that must not unsettle the others for ever.
        completing = self.state is GroupState.COMPLETING
        return completing or (self.state is GroupState.STABLE and member.id != self.leader)

    def _current(self, member: Member) -> Joined:
        members = self._everyone() if member.id == self.leader else ()
        return Joined(Code.NONE, self.generation, self.protocol, self.leader, member.id, members)

    def _everyone(self) -> tuple[tuple[str, str | None, bytes], ...]:
        return tuple(
            (m.id, m.instance, dict(m.protocols).get(self.protocol, b"")) for m in self.members.values()
        )

    def _admit(self, request: JoinRequest) -> Member | Joined:
        if request.member:
            known = self.members.get(request.member)
            if known is not None:
                return known
            if request.member not in self._pending:
                is_fenced = self._is_fenced(request.member, request.instance)
                code = Code.FENCED_INSTANCE_ID if is_fenced else Code.UNKNOWN_MEMBER
                return Joined(code, member=request.member)
            self._pending.discard(request.member)
            return self._add(request, request.member)
        if request.instance:
            return self._admit_static(request)
        name = f"{request.client}-{uuid.uuid4()}"
        if request.must_have_id:
            self._pending.add(name)
            return Joined(Code.MEMBER_ID_REQUIRED, member=name)
        return self._add(request, name)

    def _add(self, request: JoinRequest, name: str) -> Member:
        member = Member(
            name, request.instance, request.protocols, request.session_seconds, request.rebalance_seconds
        )
        self.members[name] = member
        return member

    def _admit_static(self, request: JoinRequest) -> Member | Joined:
        name = f"{request.instance}-{uuid.uuid4()}"
        old = next((m for m in self.members.values() if m.instance == request.instance), None)
        member = self._add(request, name)
        if old is None:
            return member
        del self.members[old.id]
        _cancel(old, Code.FENCED_INSTANCE_ID)
        member.assignment = old.assignment
        if self.leader == old.id:
            self.leader = name
        if self.state is not GroupState.STABLE or old.protocols != request.protocols:
            return member
        # A static member that is back within its session keeps what it had: no rebalance. It must not take
        # itself for the leader, or it would assign.
        leader = "" if self.leader == name else self.leader
        return Joined(Code.NONE, self.generation, self.protocol, leader or "none", name)

    def _rebalance(self) -> None:
        if self.state is not GroupState.PREPARING:
            self.state = GroupState.PREPARING
            now = time.monotonic()
            self._deadline = now + max((m.rebalance_seconds for m in self.members.values()), default=0.0)
            self._delay = now + (0.0 if self.generation else self._initial_delay_seconds)
            for member in self.members.values():
                if member.syncing is not None and not member.syncing.done():
                    member.syncing.set_result((Code.REBALANCE_IN_PROGRESS, b""))
                member.syncing = None
        self.complete_if_due()

    def complete_if_due(self) -> None:
        """Begin the next generation once every member has requested it, or the time for that is up."""
        now = time.monotonic()
        if self.state is not GroupState.PREPARING or now < self._delay:
            return
        waited_for = [m for m in self.members.values() if not m.waits_to_join]
        if waited_for and now < self._deadline:
            return
        for member in waited_for:
            del self.members[member.id]
        self.generation += 1
        if not self.members:
            self.state, self.leader = GroupState.EMPTY, ""
            return
        self._begin(now)

    def _begin(self, now: float) -> None:
        self.state = GroupState.COMPLETING
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        offered = [{name for name, _ in m.protocols} for m in self.members.values()]
        common = set.intersection(*offered)
        preferred = (name for name, _ in self.members[self.leader].protocols if name in common)
        self.protocol = next(preferred, "")
        for member in self.members.values():
            member.seen, member.assignment, member.generation = now, b"", self.generation
            future, member.joining = member.joining, None
            if future is not None:
                future.set_result(self._current(member))

    async def sync(self, member: Member, assignments: dict[str, bytes]) -> tuple[int, bytes]:
        """What a member owns in this generation; waits for the leader to say."""
        if self.state is GroupState.PREPARING:
            return Code.REBALANCE_IN_PROGRESS, b""
        if self.state is GroupState.STABLE:
            return Code.NONE, member.assignment
        member.syncing = future = asyncio.get_running_loop().create_future()
        if self.leader == member.id:
            self.state = GroupState.STABLE
            for other in self.members.values():
                other.assignment = assignments.get(other.id, b"")
                if other.syncing is not None and not other.syncing.done():
                    other.syncing.set_result((Code.NONE, other.assignment))
                other.syncing = None
        try:
            answer: tuple[int, bytes] = await future
        except asyncio.CancelledError:
            return member.ended, b""
        return answer

    def _is_fenced(self, member_id: str, instance: str | None) -> bool:
        """Whether another process has joined as this static member since."""
        current = self.find_instance(instance)
        return bool(current) and current != member_id

    def check(
        self, member_id: str, generation: int, instance: str | None = None
    ) -> tuple[Member | None, int]:
        """The member, alive again, and whether it is of this generation."""
        member = self.members.get(member_id)
        if member is None:
            is_fenced = self._is_fenced(member_id, instance)
            return None, Code.FENCED_INSTANCE_ID if is_fenced else Code.UNKNOWN_MEMBER
        member.seen = time.monotonic()
        return member, Code.NONE if generation == self.generation else Code.ILLEGAL_GENERATION

    def drop(self, member_id: str) -> None:
        """Take a member out; the others rebalance."""
        member = self.members.pop(member_id, None)
        if member is None:
            return
        _cancel(member)
        if self.members:
            self._rebalance()
        else:
            self.state, self.leader = GroupState.EMPTY, ""
            self.generation += 1

    def drop_silent(self) -> None:
        """Take out the members that have been silent for longer than their session."""
        now = time.monotonic()
        for member in list(self.members.values()):
            if not member.waits_to_join and now - member.seen > member.session_seconds:
                self.drop(member.id)

    def find_instance(self, instance: str | None) -> str:
        """The member id of a static member; empty if there is none."""
        return next((m.id for m in self.members.values() if instance and m.instance == instance), "")


def _cancel(member: Member, code: int = Code.UNKNOWN_MEMBER) -> None:
    member.ended = code
    for future in (member.joining, member.syncing):
        if future is not None and not future.done():
            future.cancel()
