"""A client of a TigerBeetle cluster, in the words of our contract.

The package ``tigerbeetle`` brings the native client; what it adds in Python makes one ctypes object for every transfer
and every result, which takes far longer than TigerBeetle does. Here a batch is packed into one piece of memory, handed
to the native client as it is, and the reply is read in one go. We therefore use the package's bindings directly, and
pin its version.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from tigerbeetle import bindings

from tallystick.ledger.contract import (
    AMOUNT_MAX,
    BATCH_MAX,
    Account,
    AccountFlags,
    LedgerRefusal,
    LedgerUnavailable,
    Result,
    Status,
    Transfer,
    TransferFlags,
)
from tallystick.ledger.tigerbeetle.addresses import parse_addresses, resolve
from tallystick.ledger.tigerbeetle.chains import chain_start

IN_FLIGHT_MAX = 64
"""The most requests that one client has under way; further ones wait. Each holds up to 1 MiB until it is answered."""

_log = structlog.get_logger()
logging.getLogger("tigerbeetle").setLevel(logging.ERROR)  # it warns of every attempt to connect; we say it once

# struct tb_transfer_t and tb_account_t of tb_client.h; what we do not use (x) is zero.
_TRANSFER = struct.Struct("<16s16s16s16s16s16s16xIHH8x")
_ACCOUNT = struct.Struct("<16s16s16s16s16s16s16xIHH8x")
_NEW_ACCOUNT = struct.Struct("<16s64x16s16xIHH8x")
_QUERY = struct.Struct("<40xQ8xI4x")  # tb_query_filter_t, of which we say where to start and how many
_TIMESTAMP = struct.Struct("<Q")  # an account's last field
_WORDS_PER_RESULT = 4  # tb_create_transfer_result_t: a timestamp of 8 bytes, a status of 4, and 4 reserved
_STATUS_WORD = 2
_NIL = bytes(16)

_CREATED = int(bindings.CreateTransferStatus.CREATED)
_EXISTS = int(bindings.CreateTransferStatus.EXISTS)
_TAKEN_BACK = Result(Status.EXISTS)
_KNOWN_STATUSES = {status.value: status for status in Status}
_RESULTS = {
    int(status): Result(_KNOWN_STATUSES[status.name.lower()])
    for status in bindings.CreateTransferStatus
    if status.name.lower() in _KNOWN_STATUSES
}
_EXISTING_ACCOUNT = frozenset(int(s) for s in bindings.CreateAccountStatus if s.name.startswith(("CREATED", "EXISTS")))
_ACCOUNT_FLAGS_BY_BITS = {bits: AccountFlags(bits) for bits in range(2 * AccountFlags.CLOSED)}
_TRANSFER_FLAGS_BY_BITS = {bits: TransferFlags(bits) for bits in range(2 * TransferFlags.CLOSING_CREDIT)}

_BALANCING = int(TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT)
_VOID = int(TransferFlags.VOID_PENDING)
_RESOLVING = _VOID | int(TransferFlags.POST_PENDING)

_SESSION_ENDED = {
    int(bindings.PacketStatus.CLIENT_EVICTED): (
        "TigerBeetle ended this client's session because newer clients needed its place"
    ),
    int(bindings.PacketStatus.CLIENT_RELEASE_TOO_LOW): (
        "TigerBeetle refuses this client: its release is too old for the cluster"
    ),
    int(bindings.PacketStatus.CLIENT_RELEASE_TOO_HIGH): (
        "TigerBeetle refuses this client: its release is newer than the cluster; upgrade the cluster first"
    ),
    int(bindings.PacketStatus.CLIENT_SHUTDOWN): "the connection to TigerBeetle was closed",
}


class _TooMuchData(LedgerRefusal):
    """A request is longer than the cluster takes; nothing of it was carried out."""


Answer = tuple[int, bytes]
"""A packet's status and the bytes of its reply."""

Thing = TypeVar("Thing")


class TigerBeetleClient:
    """One per process and event loop; shared by all its tasks.

    Every call raises ``LedgerUnavailable`` if the cluster does not answer in time. What was sent may still be carried
    out then, and the native client goes on trying; until it succeeds, further calls are refused at once.
    """

    def __init__(self, cluster_id: int, addresses: str, *, timeout_seconds: int = 10) -> None:
        """``addresses`` is ``HOST:PORT`` of every replica, in their order, separated by commas.

        Raises ``InvalidInput`` if they cannot be read.
        """
        self._cluster_id = cluster_id
        self._addresses = addresses
        self._hosts = parse_addresses(addresses)
        self._timeout_seconds = timeout_seconds
        self._session: _Session | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._batch_max = BATCH_MAX
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._closed = False

    @property
    def away(self) -> bool:
        """Whether an answer is overdue and none has come since."""
        return not self._reachable.is_set()

    async def until_back(self) -> None:
        """Returns as soon as the cluster is not away."""
        await self._reachable.wait()

    @property
    def unavailable(self) -> LedgerUnavailable:
        """What is raised while the cluster is away."""
        return LedgerUnavailable(
            f"TigerBeetle (cluster {self._cluster_id} at {self._addresses}) did not answer within"
            f" {self._timeout_seconds} s"
        )

    async def create_accounts(self, accounts: Sequence[Account]) -> None:
        """Opens accounts; those that exist stay as they are. Raises ``LedgerRefusal``, ``LedgerUnavailable``."""
        reply = await self._exchange(bindings.Operation.CREATE_ACCOUNTS, accounts, pack_accounts)
        for code, account in zip(_statuses(reply, len(accounts)), accounts, strict=True):
            if code not in _EXISTING_ACCOUNT:
                name = bindings.CreateAccountStatus(code).name.lower()
                raise LedgerRefusal(f"TigerBeetle refused the account {account.id}: {name}")

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[Result]:
        """Posts at most ``BATCH_MAX`` transfers in order and answers for each, with the amount that stands.

        Raises ``LedgerRefusal`` for an answer that our contract does not know, ``LedgerUnavailable``.
        """
        results: list[Result] = []
        for transfer, answer in zip(transfers, await self.try_transfers(transfers), strict=True):
            if isinstance(answer, str):
                raise LedgerRefusal(f"TigerBeetle refused the transfer {transfer.id}: {answer}")
            results.append(answer)
        return results

    async def try_transfers(self, transfers: Sequence[Transfer]) -> list[Result | str]:
        """The same, with TigerBeetle's own name for an answer that our contract does not know."""
        if not transfers:
            return []
        if len(transfers) > BATCH_MAX:
            raise LedgerRefusal(f"at most {BATCH_MAX} transfers can be posted at once")
        reply = await self._exchange(bindings.Operation.CREATE_TRANSFERS, transfers, pack_transfers, chain_start)
        codes = _statuses(reply, len(transfers))
        if codes.count(_CREATED) == len(codes):
            created = Status.CREATED
            results: list[Result | str] = [Result(created, transfer[4]) for transfer in transfers]
        else:
            results = [_result(code, transfer) for code, transfer in zip(codes, transfers, strict=True)]
            for index, code in enumerate(codes):
                if code == _EXISTS and _is_of_the_same_chain(transfers, index):
                    results[index] = _TAKEN_BACK
        await self._ask_true_amounts(transfers, results)
        return results

    async def lookup_accounts(self, ids: Collection[UUID]) -> dict[UUID, Account]:
        """The accounts that exist among ``ids``. Raises ``LedgerUnavailable``."""
        reply = await self._exchange(bindings.Operation.LOOKUP_ACCOUNTS, list(ids), _pack_ids)
        return {account.id: account for account in _read_accounts(reply)}

    async def lookup_transfers(self, ids: Collection[UUID]) -> dict[UUID, Transfer]:
        """The transfers that stand among ``ids``, as they stand; their ``customer_id`` is nil: it is not kept there.

        Raises ``LedgerUnavailable``.
        """
        reply = await self._exchange(bindings.Operation.LOOKUP_TRANSFERS, list(ids), _pack_ids)
        return {transfer.id: transfer for transfer in _read_transfers(reply)}

    async def all_accounts(self) -> AsyncIterator[list[Account]]:
        """Every account that there is, in pages, by age. Raises ``LedgerUnavailable``."""
        since, limit = 0, BATCH_MAX
        while True:
            body = bytearray(_QUERY.pack(since, limit))
            try:
                reply = await self._ask(bindings.Operation.QUERY_ACCOUNTS, body)
            except _TooMuchData:
                if limit == 1:
                    raise
                limit //= 2
                continue
            if not reply:
                return
            yield list(_read_accounts(reply))
            since = _TIMESTAMP.unpack(reply[-_TIMESTAMP.size :])[0] + 1

    async def close(self) -> None:
        """Ends the session; whoever still waits for an answer gets ``LedgerUnavailable``."""
        self._closed = True
        self._drop(self._session)
        while self._closing:
            await asyncio.gather(*self._closing)

    async def _ask_true_amounts(self, transfers: Sequence[Transfer], results: list[Result | str]) -> None:
        """Puts in the amounts that the ledger has settled itself."""
        unsure = {
            index: result
            for index, (transfer, result) in enumerate(zip(transfers, results, strict=True))
            if transfer[7] and _is_settled_by_ledger(transfer) and isinstance(result, Result) and result.stands
            if result is not _TAKEN_BACK
        }
        if unsure:
            standing = await self.lookup_transfers({transfers[index].id for index in unsure})
            for index, result in unsure.items():
                results[index] = result._replace(amount=standing[transfers[index].id].amount)

    async def _exchange(
        self,
        operation: bindings.Operation,
        items: Sequence[Thing],
        pack: Callable[[Sequence[Thing]], bytearray],
        cut: Callable[[Sequence[Thing], int, int], int] = lambda _items, _start, end: end,
    ) -> bytes:
        """The replies to all items, in as many requests as the cluster's limit for one makes necessary.

        That limit is not told: a cluster in development mode takes a few hundred transfers where others take 8,189.
        """
        replies: list[bytes] = []
        start = 0
        while start < len(items):
            end = min(start + self._batch_max, len(items))
            end = end if end == len(items) else cut(items, start, end)
            try:
                replies.append(await self._ask(operation, pack(items[start:end])))
                start = end
            except _TooMuchData:
                if end - start == 1:
                    raise
                self._batch_max = max(1, min(self._batch_max, end - start) // 2)
        return b"".join(replies)

    async def _ask(self, operation: bindings.Operation, body: bytearray) -> bytes:
        """The bytes of the reply."""
        if self.away:
            raise self.unavailable
        answer: asyncio.Future[Answer] | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                session = await self._open()
                await self._slots.acquire()
                answer = session.submit(operation, body)
                answer.add_done_callback(self._answered)
                status, reply = await asyncio.shield(answer)
        except TimeoutError:
            if answer is not None and not answer.done():  # else nothing would come late, and end the absence
                self._miss()
            raise self.unavailable from None
        if status == bindings.PacketStatus.OK:
            return reply
        if status == bindings.PacketStatus.TOO_MUCH_DATA:
            raise _TooMuchData("TigerBeetle takes less than that at once")
        if status in _SESSION_ENDED:
            self._drop(session)
            raise LedgerUnavailable(_SESSION_ENDED[status])
        raise LedgerRefusal(f"TigerBeetle refused a request: {bindings.PacketStatus(status).name.lower()}")

    def _miss(self) -> None:
        if not self.away:
            _log.warning("tigerbeetle.away", addresses=self._addresses, timeout_seconds=self._timeout_seconds)
        self._reachable.clear()

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        """Any answer, however late, shows that the cluster is back, or that the session is to be opened again."""
        self._slots.release()
        if self.away and answer.result()[0] == bindings.PacketStatus.OK:
            _log.info("tigerbeetle.back", addresses=self._addresses)
        self._reachable.set()

    async def _open(self) -> _Session:
        if self._closed:
            raise LedgerUnavailable("the connection to TigerBeetle was closed")
        if self._session is None:
            async with self._opening:
                if self._session is None:
                    self._session = _Session(self._cluster_id, await resolve(self._hosts))
        return self._session

    def _drop(self, session: _Session | None) -> None:
        """Closes a session in a thread of its own: the native client waits for its own thread."""
        if session is None or session is not self._session:
            return
        self._session = None
        closing = asyncio.get_running_loop().run_in_executor(None, session.close)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Session:
    """A session of the native client, which works in a thread of its own."""

    def __init__(self, cluster_id: int, addresses: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, tuple[asyncio.Future[Answer], bindings.CPacket, ctypes.Array[ctypes.c_char]]] = {}
        """Packets and bodies belong to the native client until it has answered, even if nobody waits any more."""
        self._on_completion = bindings.OnCompletion(self._complete)
        self._native = bindings.CClient()
        cluster = (ctypes.c_uint8 * 16)(*cluster_id.to_bytes(16, "little"))
        text = addresses.encode("ascii")
        status = bindings.tb_client_init(
            ctypes.byref(self._native), ctypes.byref(cluster), text, len(text), 0, self._on_completion
        )
        if status != bindings.InitStatus.SUCCESS:
            name = bindings.InitStatus(status).name.lower()
            raise LedgerUnavailable(f"the TigerBeetle client cannot start with the addresses {addresses!r}: {name}")

    def submit(self, operation: bindings.Operation, body: bytearray) -> asyncio.Future[Answer]:
        """Hands a request over; the future gets its answer, and never an exception."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        number = next(self._numbers)
        packet = bindings.CPacket()
        packet.user_data = number
        packet.operation = int(operation)
        memory = (ctypes.c_char * len(body)).from_buffer(body)
        packet.data = ctypes.addressof(memory)
        packet.data_size = len(body)
        self._under_way[number] = answer, packet, memory
        if bindings.tb_client_submit(ctypes.byref(self._native), ctypes.byref(packet)) != bindings.ClientStatus.OK:
            self._finish(number, int(bindings.PacketStatus.CLIENT_SHUTDOWN), b"")
        return answer

    def close(self) -> None:
        """Ends the native client, which answers whatever is under way; returns when its thread has ended."""
        bindings.tb_client_deinit(ctypes.byref(self._native))

    def _complete(self, _context: Any, packet: Any, _timestamp: int, data: int | None, size: int) -> None:
        """Runs in the native client's thread; the reply is only there until this returns."""
        done = packet.contents
        reply = ctypes.string_at(data, size) if data and size else b""
        try:
            self._loop.call_soon_threadsafe(self._finish, done.user_data, done.status, reply)
        except RuntimeError:  # the event loop is gone, and with it whoever waited
            self._under_way.pop(done.user_data, None)

    def _finish(self, number: int, status: int, reply: bytes) -> None:
        answer, _, _ = self._under_way.pop(number)
        if not answer.done():
            answer.set_result((status, reply))


def pack_transfers(transfers: Sequence[Transfer]) -> bytearray:
    """Transfers as TigerBeetle keeps them in memory."""
    body = bytearray(len(transfers) * _TRANSFER.size)
    pack_into, size = _TRANSFER.pack_into, _TRANSFER.size
    position = 0
    for transfer_id, _, debit, credit, amount, ledger, code, flags, cause_id, pending_id in transfers:
        pack_into(
            body,
            position,
            transfer_id.int.to_bytes(16, "little"),
            debit.int.to_bytes(16, "little"),
            credit.int.to_bytes(16, "little"),
            amount.to_bytes(16, "little"),
            pending_id.int.to_bytes(16, "little") if pending_id is not None else _NIL,
            cause_id.int.to_bytes(16, "little") if cause_id is not None else _NIL,
            ledger,
            code,
            flags,
        )
        position += size
    return body


def pack_accounts(accounts: Iterable[Account]) -> bytearray:
    """Accounts as TigerBeetle keeps them in memory, without their sums; ``user_data_128`` is the customer."""
    return bytearray().join(
        [
            _NEW_ACCOUNT.pack(
                account.id.int.to_bytes(16, "little"),
                account.customer_id.int.to_bytes(16, "little"),
                account.ledger,
                account.code,
                account.flags,
            )
            for account in accounts
        ]
    )


def _pack_ids(ids: Iterable[UUID]) -> bytearray:
    return bytearray().join([item.int.to_bytes(16, "little") for item in ids])


def _statuses(reply: bytes, count: int) -> list[int]:
    words = memoryview(reply).cast("I")
    codes: list[int] = words[_STATUS_WORD::_WORDS_PER_RESULT].tolist()
    if len(codes) != count:
        raise LedgerRefusal(f"TigerBeetle answered {count} requests with {len(codes)} results")
    return codes


def _result(code: int, transfer: Transfer) -> Result | str:
    result = _RESULTS.get(code)
    if result is None:
        return bindings.CreateTransferStatus(code).name.lower()
    return result._replace(amount=transfer.amount) if result.stands else result


def _is_of_the_same_chain(transfers: Sequence[Transfer], index: int) -> bool:
    """Whether a transfer that exists was made by the very chain that it breaks, and is gone with it."""
    earlier = index - 1
    while earlier >= 0 and transfers[earlier].flags & TransferFlags.LINKED:
        if transfers[earlier].id == transfers[index].id:
            return True
        earlier -= 1
    return False


def _is_settled_by_ledger(transfer: Transfer) -> bool:
    """Whether TigerBeetle rather than the caller says what a transfer moves."""
    flags = int(transfer.flags)
    if flags & _RESOLVING:
        return transfer.amount == (0 if flags & _VOID else AMOUNT_MAX)
    return bool(flags & _BALANCING)


def _read_accounts(reply: bytes) -> Iterator[Account]:
    number: Callable[..., int] = int.from_bytes
    for (
        id_,
        debits_pending,
        debits_posted,
        credits_pending,
        credits_posted,
        customer,
        ledger,
        code,
        flags,
    ) in _ACCOUNT.iter_unpack(reply):
        yield Account(
            UUID(int=number(id_, "little")),
            UUID(int=number(customer, "little")),
            ledger,
            code,
            _ACCOUNT_FLAGS_BY_BITS[flags],
            number(debits_pending, "little"),
            number(debits_posted, "little"),
            number(credits_pending, "little"),
            number(credits_posted, "little"),
        )


def _read_transfers(reply: bytes) -> Iterator[Transfer]:
    for id_, debit, credit, amount, pending, cause, ledger, code, flags in _TRANSFER.iter_unpack(reply):
        yield Transfer(
            UUID(int=int.from_bytes(id_, "little")),
            UUID(int=0),
            UUID(int=int.from_bytes(debit, "little")),
            UUID(int=int.from_bytes(credit, "little")),
            int.from_bytes(amount, "little"),
            ledger,
            code,
            _TRANSFER_FLAGS_BY_BITS[flags],
            UUID(int=int.from_bytes(cause, "little")) if cause != _NIL else None,
            UUID(int=int.from_bytes(pending, "little")) if pending != _NIL else None,
        )
