"""One turn of a session: whose it is, where that session stands, and what the agent's answer says about it.

A turn stands beside its exchange. It reads the request for keys, asks for the pin (the exchange is parked meanwhile,
and nothing of it has been sent), and says which group serves. On the way back it taps the answer for newly minted keys;
only the bytes that carry one wait until the pin is written, and no longer than `pin_write_timeout`.

Must not know how bytes are framed, nor where pins are kept.
"""

from __future__ import annotations

from functools import partial
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.proxy.ending import tell_end
from bgproxy.proxy.hold import admitted, hold_new, refuse_session
from bgproxy.proxy.routing import Group
from bgproxy.proxy.session_rules import SessionRules
from bgproxy.proxy.wait import Wait
from bgproxy.rules.choose import choose
from bgproxy.rules.pin import Pin
from bgproxy.sessions.keys import Key
from bgproxy.sessions.learn import Learner
from bgproxy.sessions.preset import BROWSER
from bgproxy.sessions.sighting import Sighting
from bgproxy.store.pinning import BEGUN, PAUSED, Learned, Want

if TYPE_CHECKING:
    import asyncio

    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.plane import DataPlane

STORE_WAIT = 10.0  # seconds that a parked request waits at most; the store's own limits answer long before
HEARD = "heard"
ECHOED = 4_096  # bytes of a request's body that are kept until its answer, so that an error can echo its id


def turn_of(exchange: Exchange, rules: SessionRules, rest: bytes) -> Turn | None:
    """The turn that a request begins; None where it neither has a session nor can get one. `rest`: behind its head."""
    request = exchange.request
    met = rules.met(request)
    if met is not None:
        seen = met[0]
    else:
        has_body = request.length != 0
        seen = rules.recogniser.request(request.method, request.target, request.marks or (), has_body, request.upgrade)
    if seen.body is not None and not rest:
        exchange.client.ask_for_body(request)  # which agent could say so stands in it
    if seen.keys or seen.body is not None or seen.minting or seen.own_cookie:
        turn = Turn(exchange, rules, seen)
        if met is not None:
            turn.keys = met[1]
        return turn
    if seen.unread or seen.ignored:
        _overlooked(exchange.client.plane, seen.unread, seen.ignored)
    return None


def _overlooked(plane: DataPlane, unread: str, ignored: int) -> None:
    """Count what was not understood: a body that was not read (`unread`: why), and values that can be no key."""
    plane.ignored += ignored
    if unread:
        plane.unpinned(unread)


class Turn:
    """See the module. Made only for requests that may have, or may get, a session."""

    pin: Pin | None = None
    keys: tuple[bytes, ...] = ()
    reading = False  # the request's body is read for a key
    parked = False  # the store is asked
    has_caught_up = False  # this node has read the state, since it was told of a pause that it does not know
    counted: bytes | None = None  # the pin among whose turns under way this one is
    listening: bytes | None = None  # the pin whose client only listens here
    writing = 0  # keys that the store has not acknowledged yet
    learner: Learner | None = None
    is_stream = False  # the session is this very stream, and over with it
    cookie = b""  # a Set-Cookie that goes with the answer
    _timer: asyncio.TimerHandle | None = None
    said = b""  # the beginning of the request's body, where an error may have to echo its id

    def __init__(self, exchange: Exchange, rules: SessionRules, sighting: Sighting) -> None:
        self.rules = rules
        self.sighting = sighting
        self._exchange = exchange
        self._plane = exchange.client.plane
        self.reading = sighting.body is not None

    def __repr__(self) -> str:
        state = "reading" if self.reading else "parked" if self.parked else "placed"
        return f"<Turn {self.sighting.preset or 'of no session yet'} {state}>"

    # 1. the request's keys

    def read(self, pieces: list[bytes], whole: bool) -> bool:
        """Pieces of the request's body, `whole`: the last ones. True: enough, all that it tells is known."""
        body = self.sighting.body
        if body is None or not self.reading:
            return True
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)  # of chunks of a byte each there may be thousands
        if self.rules.echoes and len(self.said) < ECHOED:
            self.said = (self.said + data)[:ECHOED] if self.said or len(data) > ECHOED else data
        if data and body.feed(data):
            self.reading = False
            return True
        if whole:
            body.end()
            self.reading = False
        return whole

    def place(self, now: float) -> Group | None:
        """The group that serves, once all keys are known; None: the exchange waits, and `Exchange.placed` follows."""
        sighting = self.sighting
        plane = self._plane
        if not sighting.keys:
            _overlooked(plane, sighting.unread, sighting.ignored)
            return admitted(self._exchange, plane.admitting(self._exchange), now)
        keys = self.keys
        if not keys:
            keys = self.keys = self.rules.digests(sighting.keys, self._exchange.request.marks)
        pin = plane.pins.get(keys) if plane.pins is not None else None
        if pin is not None:
            return self._stand(pin, now)
        plane.ignored += sighting.ignored
        self._ask(keys, now)
        return None

    def _ask(self, keys: tuple[bytes, ...], now: float) -> None:
        pins = self._plane.pins
        assert pins is not None
        options = self.rules.options
        group = self._exchange.group
        upstream = group.choose(now) if self.sighting.sticky_host else None
        offer = (group.color, upstream.url) if upstream is not None else ("", "")
        self._park(now)
        preset, wish = self.sighting.preset, self._exchange.wish
        want = Want(keys, self.rules.route, preset, options.pin_ttl, options.max_age, offer, wish=wish)
        pins.resolve(want, self._found)

    def _park(self, now: float) -> None:
        self.parked = True
        self._exchange.client.expect(Wait.STORE, STORE_WAIT, now)

    def _stand(self, pin: Pin, now: float) -> Group | None:
        """Where the session's pin leads; it may have to be moved first."""
        self.pin = pin
        plane = self._plane
        routing, state = plane.routing, plane.state
        assert routing is not None
        assert state is not None
        group = self._group(pin.color)
        is_known = group is not None and group.release == pin.release and pin.epoch >= routing.epoch
        if is_known and group is not None and not group.ended and pin.id not in state.orders:
            self._count(pin)
            return group
        options = self.rules.options
        order = state.orders.get(pin.id)
        choice = choose(state.pointer, state.releases, pin, options.policy, options.on_rollback, order)
        if choice.why == "ended":
            self._ask_who_ends(pin, now)
            return None
        self._count(pin)  # what is asked for is a turn already
        if group is not None and choice.why == "pinned":
            return group
        assert plane.pins is not None
        self._park(now)
        plane.pins.migrate(pin, self._moved)
        return None

    def _found(self, pin: Pin | None, why: str) -> None:
        """The store's answer about the keys."""
        if self._exchange.over:
            return
        if pin is None:
            hold_new(self._exchange) if why == PAUSED else self.refuse(why)
            return
        self.parked = False
        now = monotonic()
        group = self._stand(pin, now)
        if group is not None:
            self._exchange.placed(group, now)

    def _moved(self, pin: Pin | None, why: str) -> None:
        """The session has moved, or stays for this turn. `why` is `HEARD` once this node knows what the store does."""
        if self._exchange.over:
            return
        self.parked = False
        group = self._group(pin.color) if pin is not None else None
        if pin is None or group is None or group.release != pin.release:
            if pin is None or why == HEARD:
                self.refuse(why)  # never another release in silence
            else:  # the store knows a release of which this node has not heard yet
                self._park(monotonic())
                self._plane.catch_up(partial(self._moved, pin, HEARD))
            return
        self.pin = pin
        if why not in BEGUN:
            self._found(pin, why)
        elif group.ended:  # meanwhile
            self._ask_who_ends(pin, monotonic())
        else:
            self._exchange.placed(group, monotonic())

    def _ask_who_ends(self, pin: Pin, now: float) -> None:
        """An operator has ended the session, and its client is to be told once, whichever node its requests reach."""
        assert self._plane.pins is not None
        self._park(now)
        self._plane.pins.end(pin.id, self._ended)

    def _ended(self, by_this: bool) -> None:
        """The pin is over. Where another node had ended it, its client knows, and this begins a new session."""
        if self._exchange.over:
            return
        self.parked = False
        if by_this:
            tell_end(self._exchange, self)
        else:
            self.pin = None
            self._ask(self.keys, monotonic())

    def end_pin(self) -> None:
        """The session is over, and its client knows it."""
        if self.pin is not None and self._plane.pins is not None:
            self._plane.pins.end(self.pin.id)

    def refuse(self, why: str = "") -> None:
        """Nobody can say where the session lives, or nobody has said so in time."""
        self.parked = False
        refuse_session(self._exchange, why)

    def _group(self, color: str) -> Group | None:
        """What serves this route on a color. A route that was taken away serves those whom it has let in."""
        routing, admitted = self._plane.routing, self._exchange.group
        found = routing.groups.get((self.rules.route, color)) if routing is not None else None
        return found or (admitted if admitted.color == color else None)

    # 2. the host within the color

    @property
    def upstream(self) -> str:
        """The upstream that has the session in its memory; empty where any will do."""
        return self.pin.upstream if self.pin is not None and self.sighting.sticky_host else ""

    def served_by(self, url: str) -> None:
        """An upstream takes the turn."""
        pin = self.pin
        if pin is not None and self.sighting.sticky_host and pin.upstream != url and self._plane.pins is not None:
            self._plane.pins.place(pin.id, url)

    # 3. the answer

    def answered(self, status: int, marks: list[tuple[bytes, bytes]] | None) -> bool:
        """The answer's head has come; whether its bytes must wait for the store."""
        sighting = self.sighting
        self.said = b""
        if self.pin is not None and sighting.ends(status):
            self.end_pin()
            return False
        if sighting.listens and self.counted is not None and status == 200:
            self._listen(self.counted)
        keys: list[Key] = []
        if sighting.minting and (learner := sighting.response(status, marks or ())) is not None:
            keys = learner.keys
            if learner.done:
                self._heard(learner)
            else:
                self.learner = learner
        if sighting.own_cookie and status < 400:
            keys = [*keys, self._own_cookie(sighting.own_cookie)]
        return bool(keys) and self._learn(keys)

    def _heard(self, learner: Learner) -> None:
        """The answer says no more."""
        _overlooked(self._plane, f"answer_{learner.unread}" if learner.unread else "", learner.ignored)

    def _own_cookie(self, name: bytes) -> Key:
        """A name of our own for a browser that has none: random, and it says nothing about where it leads."""
        value = token_hex(16).encode()
        self.cookie = b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax\r\n" % (name, value)
        return Key("cookie", value, BROWSER)

    def tap(self, payload: bytes) -> bool:
        """Bytes of the answer's body, framing removed; whether they must wait for the store."""
        learner = self.learner
        if learner is None:
            return False
        keys = learner.feed(payload)
        if learner.stream and not self.keys:  # what the client has named outlives it
            self.is_stream = True
        if learner.done:
            self.learner = None
            self._heard(learner)
        return bool(keys) and self._learn(keys)

    def _learn(self, keys: list[Key]) -> bool:
        """Tell the store of new keys; whether it is still to acknowledge them."""
        exchange = self._exchange
        pins = self._plane.pins
        upstream = exchange.upstream
        if pins is None or upstream is None:
            return False
        group = exchange.group
        options = self.rules.options
        self.writing += 1
        learned = Learned(
            self.rules.digests(keys, self._exchange.request.marks),
            self.pin.id if self.pin is not None else None,
            group.color,
            group.release,
            upstream.url,
            group.epoch,
            self.rules.route,
            self.sighting.preset or keys[0].space.partition(".")[0],
            options.pin_ttl,
            options.max_age,
        )
        pins.learn(learned, self._written)
        return self.writing > 0

    def _written(self, pin: Pin | None, _: str) -> None:
        """The store, or the journal, has the keys."""
        self.writing -= 1
        group = self._exchange.group
        # A pin at another place is that of somebody else's session, whose id the agent has said.
        if self.pin is None and pin is not None and (pin.color, pin.release) == (group.color, group.release):
            self.pin = pin
            if not self._exchange.over:
                self._count_late(pin)
            elif self.is_stream:
                self.end_pin()
        if not self.writing:
            self._exchange.release()

    def wait_for_pins(self) -> None:
        """Bytes with new keys wait until those are written, or have had their time; that of earlier ones is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._plane.loop.call_later(self.rules.write_timeout, self._exchange.release)

    def _count_late(self, pin: Pin) -> None:
        """The turn turns out to be one of this session."""
        self._count(pin)
        plane = self._plane
        if plane.pins is not None and plane.routing is not None and pin.epoch < plane.routing.epoch:
            plane.pins.hold(pin.id)  # it was admitted before the last flip, which did not know its session

    # 4. the end

    def _count(self, pin: Pin) -> None:
        """The turn is under way: its session must not be moved meanwhile."""
        if self.counted != pin.id:
            self._uncount()  # its key leads to another session by now
            busy = self._plane.busy
            self.counted = pin.id
            busy[pin.id] = busy.get(pin.id, 0) + 1

    def over(self) -> None:
        """The exchange has ended, whichever way."""
        if self.reading:
            self.sighting.body = None  # it knows the sighting
        if self.learner is not None:
            self.learner.close()
            self._heard(self.learner)
            self.learner = None
        if self._timer is not None:
            self._timer.cancel()
        if self.listening is not None:
            _take_from(self._plane.attended, self.listening)
        if self.is_stream:
            self.end_pin()
        self._uncount()

    def _uncount(self) -> None:
        """The turn is over: its session may be moved, if it has no other."""
        counted, self.counted = self.counted, None
        if counted is not None and _take_from(self._plane.busy, counted) and self._plane.pins is not None:
            self._plane.pins.idle(counted)

    def _listen(self, pin_id: bytes) -> None:
        """The agent has opened its ear: from here on the session's other requests are its turns, and not this one. It
        may move without it, and this stream goes on to its end."""
        self.listening = pin_id
        attended = self._plane.attended
        attended[pin_id] = attended.get(pin_id, 0) + 1
        self._uncount()


def _take_from(counts: dict[bytes, int], pin_id: bytes) -> bool:
    """One less; whether it was the last."""
    left = counts[pin_id] - 1
    if left:
        counts[pin_id] = left
        return False
    del counts[pin_id]
    return True
