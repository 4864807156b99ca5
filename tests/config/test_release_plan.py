"""A plan as it is written: the smallest one works, and whatever is wrong is named with its key and the remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bgproxy.config.plan import JUDGES, KINDS, MAX_BYTES, load_plan, plan_from
from bgproxy.errors import ConfigError
from bgproxy.rules.jury import PrometheusJudge
from bgproxy.rules.plan import Bake, Canary, HttpGate, LoadGate, Parity, Plan, Slo, Synthetic

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"

SMALLEST = """
[[gate]]
kind = "http"            # smoke
method = "POST"
path = "/v1/chat/completions"
json = { model = "agent", messages = [{ role = "user", content = "ping" }] }
expect_status = 200
expect_json = { "/choices/0/message/role" = "assistant" }
max_latency = 2.0

[bake]
duration = 60.0
max_error_rate = 0.01    # of the new release's answers: 5xx, resets, streams broken off
max_p95_ratio = 1.5      # against the old release's window before the flip
min_samples = 200
"""


MADE = "[canary]\nmax_error_rate = 0.01\n"


def read(text: str) -> Plan:
    return plan_from(tomllib.loads(text))


def test_the_smallest_plan_works_as_it_is_written():
    plan = read(SMALLEST)
    assert plan.gates == (
        HttpGate(
            name="http-1",
            method="POST",
            path="/v1/chat/completions",
            json={"model": "agent", "messages": [{"role": "user", "content": "ping"}]},
            expect_status=(200,),
            expect_json={"/choices/0/message/role": "assistant"},
            max_latency=2.0,
        ),
    )
    assert plan.bake == Bake(duration=60.0, max_error_rate=0.01, max_p95_ratio=1.5, min_samples=200)
    assert plan.parity == Parity()


def test_a_canary_of_synthetic_traffic_alone_is_one():
    plan = read(MADE + "[canary.synthetic]\nrate = 5\nmethod = 'POST'\njson = { a = 1 }\nexpect_status = 202")
    assert plan.canary == Canary(
        max_error_rate=0.01,
        synthetic=Synthetic(rate=5.0, method="POST", json={"a": 1}, expect_status=(202,)),
    )
    assert any("5 per second at POST / beside them" in line for line in plan.lines())


def test_nothing_at_all_is_a_plan():
    assert read("") == Plan()


def test_the_examples_are_good():
    files = sorted(EXAMPLES.glob("plan*.toml"))
    assert files
    for file in files:
        tree, plan = load_plan(file)
        assert plan_from(tree) == plan
        assert len(list(plan.lines())) >= 3 + len(plan.gates)


def test_every_kind_of_gate_is_in_the_examples():
    _, plan = load_plan(EXAMPLES / "plan.toml")
    assert {gate.kind for gate in plan.gates} == {*KINDS}


def test_a_bake_may_have_judges_and_nothing_else():
    _, plan = load_plan(EXAMPLES / "plan.toml")
    assert plan.bake is not None
    assert {judge.kind for judge in plan.bake.judges} == {*JUDGES}
    bake = read(f'{PROMETHEUS}\nquery = "x"\nmin = 1').bake
    assert bake is not None
    assert bake.judges == (PrometheusJudge(name="prometheus-1", url="http://p:9090", query="x", min=1.0),)


def test_limits_of_a_load_stand_in_a_table_of_their_own():
    (gate,) = read('[[gate]]\nkind = "load"\n[gate.slo]\nmax_p95 = 2').gates
    assert isinstance(gate, LoadGate)
    assert gate.slo == Slo(max_p95=2.0)


PROMETHEUS = '[[bake.judge]]\nkind = "prometheus"\nurl = "http://p:9090"'
WRONG = [
    ('[[gate]]\nkind = "replay"\ncompare = []', "gate[1].compare: nothing would be compared"),
    ('[[gate]]\nkind = "replay"\ncompare = ["words"]', "gate[1].compare"),
    ('[[gate]]\nkind = "replay"\nsessions = 2\nmin_sessions = 3', "gate[1].min_sessions: at most 2 sessions"),
    ('[[gate]]\nkind = "replay"\nat_once = 99', "the most is 16"),
    ('[[gate]]\nkind = "replay"\nignore = ["a"]', 'gate[1].ignore: "a" is no JSON pointer'),
    ('[mirror]\nmethods = ["POST"]', '"POST" is not safe to repeat'),
    ("[bake]\nmax_p95 = 1\nbaseline = 601", "bake.baseline: 601.0 is too large; the most is 600"),
    ("[bake]\nmax_p95 = 1\nconfidence = 1", "bake.confidence: 1.0 is too large"),
    ('[bake]\nmax_p95 = 1\non_undecided = "wait"', 'bake.on_undecided: "wait" is not known; write one of settle'),
    ("[bake]\nmax_p95 = 1\njudge = 5", "bake.judge: this is not a list of tables; write [[bake.judge]]"),
    ("[bake]\nmax_p95 = 1\njudge = [5]", "bake.judge[1]: this is not a table; write [[bake.judge]]"),
    ('[[bake.judge]]\nkind = "prom"', 'bake.judge[1].kind: "prom" is not known; write one of prometheus, webhook'),
    ("[[bake.judge]]", "bake.judge[1].kind: this judge has no kind; write one of prometheus, webhook"),
    (f"{PROMETHEUS}\nqury = 1", "bake.judge[1].qury: there is no such key; did you mean bake.judge[1].query?"),
    (f'{PROMETHEUS}\nquery = " "\nmax = 1', "bake.judge[1].query: there is none; write PromQL"),
    (f'{PROMETHEUS}\nquery = "x"', "bake.judge[1].max: there is no limit; write max, min or both"),
    (f'{PROMETHEUS}\nquery = "x"\nmax = 1\nmin = 2', "bake.judge[1].min: 2 is more than max = 1; swap them"),
    (f'{PROMETHEUS}\nquery = "x"\nmax = 1\ninterval = 0.5', "bake.judge[1].interval: 0.5"),
    ('[[bake.judge]]\nkind = "webhook"\nurl = "ci"', 'bake.judge[1].url: "ci" is no address'),
    ('[[bake.judge]]\nkind = "webhook"\nurl = "http://h/"\nsecret = "x"', "no secret may stand in it"),
    (f'{PROMETHEUS}\nname = "a"\nquery = "x"\nmax = 1\n' * 2, 'there are two of the name "a"'),
    (f'{PROMETHEUS}\nquery = "x"\nmax = 1\n' * 9, "there are 9 judges, at most 8 are taken"),
    ("[mirror]\nmethods = []", "nothing would be mirrored"),
    ('[mirror]\nrpc = ["tools list"]', '"tools list" is no JSON-RPC method'),
    ('[mirror]\npaths = ["v1"]', '"v1" is no path'),
    ("[mirror]\npaths = []", 'write paths = ["/"] for all'),
    ('[mirror]\ncredentials = ["x-user"]', '"x-user" is none of the fields that are left out'),
    ('[mirror]\nignore = ["usage"]', '"usage" is no JSON pointer'),
    ('[mirror]\nignore = [""]', "is the whole document"),
    ('[mirror]\ncompare = ["body"]', "mirror.compare"),
    ("[mirror]\ncompare = []", "nothing would be compared"),
    ("[mirror]\nshare = 0", "nothing would be mirrored"),
    ("[mirror]\nmax_rate = 1000", "the most is 500"),
    ("[mirror]\nmin_samples = 0", "with no answer nothing is known"),
    ("[mirror]\nduration = 1", "one node mirrors at most 10 requests"),
    ("[mirror]\nmax_rat = 1", "did you mean mirror.max_rate?"),
    ('[mirror.headers]\nAuthorization = "Bearer x"', "no secret may stand in it"),
    ('gates = "x"', "gates: there is no such key; did you mean gate?"),
    ("[canari]\nshare = 0.5", "canari: there is no such key; did you mean canary?"),
    ("[canary]\npercent = 5", "canary.percent: there is no such key; the keys here are"),
    ("[canary]\nmax_p95 = 1", "canary.share: no session begins there; write a share such as 0.05, or [[canary.match]]"),
    ("[canary]\nshare = 0.1", "canary: there is no limit to keep to"),
    ("[canary]\nshare = 5", "canary.share: 5.0 is too large; the most is 1"),
    ("[canary]\nshare = 1\nmin_samples = 5\nmax_p95 = 1", "canary.max_p95: it cannot be judged with min_samples = 5"),
    (
        MADE + "[canary.synthetic]\nrat = 5",
        "canary.synthetic.rat: there is no such key; did you mean canary.synthetic.rate?",
    ),
    (MADE + "[canary.synthetic]\nrate = 0", "canary.synthetic.rate: nothing would be sent; write requests per second"),
    (MADE + "[canary.synthetic]\nrate = 51", "canary.synthetic.rate: 51 is too large; the most is 50"),
    (MADE + "[canary.synthetic]\npath = 'x'", 'canary.synthetic.path: "x" is no path'),
    (MADE + "[canary.synthetic]\nhost = 'a/b'", 'canary.synthetic.host: "a/b" is no host name'),
    (MADE + "[canary.synthetic]\nmethod = 'a b'", 'canary.synthetic.method: "a b" cannot be used'),
    (MADE + "[canary.synthetic]\nexpect_status = 99", "canary.synthetic.expect_status: 99 is no final status"),
    (MADE + "[canary.synthetic]\njson = 1\nbody = 'x'", "canary.synthetic.body: json is given too"),
    (MADE + "[canary.synthetic]\ntimeout = 301", "canary.synthetic.timeout: the canary is over after 300 s"),
    (MADE + "[canary.synthetic.headers]\nCookie = 'a=b'", "canary.synthetic.headers.Cookie: a plan is kept and shown"),
    (MADE + "synthetic = 5", "canary.synthetic: 5 is not a table"),
    ("[canary]\nmax_p95 = 1\n[canary.synthetic]", "canary.synthetic: its errors have no limit; write max_error_rate"),
    ("[canary]\nmatch = 5", "canary.match: this is not a list of tables; write [[canary.match]]"),
    ('[[canary.match]]\nvalues = ["a"]', "canary.match[1]: write either header or cookie"),
    ('[[canary.match]]\nheader = "a"\ncookie = "b"\nvalues = "c"', "canary.match[1]: write either header or cookie"),
    (
        '[[canary.match]]\nheader = "X-A"',
        'canary.match[1].values: there is no value; write for example values = ["yes"]',
    ),
    ('[[canary.match]]\nheader = "X A"\nvalues = "a"', 'canary.match[1].header: "X A" is no name'),
    ('[[canary.match]]\nheader = "Authorization"\nvalues = "a"', "Authorization cannot tell who is listed"),
    ('[[canary.match]]\nname = "X-A"', "canary.match[1].name: there is no such key; the keys here are header, cookie"),
    ('[[hook]]\nat = ["canary"]\nurl = "http://a/"\nsecret = "${GATE_A}"', "this plan has no [canary]"),
    ("duration = 5", "duration: there is no such key; did you mean bake.duration?"),
    ("gate = 5", "gate: this is not a list of tables; write [[gate]]"),
    ("gate = [5]", "gate[1]: this is not a table"),
    ("bake = 5", "bake: 5 is not a table; write [bake]"),
    ("[[gate]]\npath = '/'", "gate[1].kind: this gate has no kind; write one of http, mcp"),
    ('[[gate]]\nkind = "htpp"', 'gate[1].kind: "htpp" is not known; did you mean "http"?'),
    ("[[gate]]\nkind = ['http']", "gate[1].kind: ['http'] is not known"),
    (
        '[[gate]]\nkind = "http"\nexpect_statuss = 200',
        "gate[1].expect_statuss: there is no such key; did you mean gate[1].expect_status?",
    ),
    ('[[gate]]\nkind = "http"\ntools = ["x"]', "gate[1].tools: there is no such key; gates of kind mcp have it"),
    ('[[gate]]\nkind = "http"\nmax_p99 = 1', "it is a limit of a load gate"),
    ('[[gate]]\nkind = "load"\nslo = { max_p9 = 1 }', "gate[1].slo.max_p9: there is no such key; did you mean"),
    ('[[gate]]\nkind = "load"\nslo = 5', "gate[1].slo: 5 is not a table"),
    ('[[gate]]\nkind = "http"\nrepeat = true', "gate[1].repeat: true is not a whole number; write for example 1"),
    ('[[gate]]\nkind = "http"\ntimeout = "5"', 'gate[1].timeout: "5" is not a number'),
    ('[[gate]]\nkind = "chat"\nstream = 1', "gate[1].stream: 1 is not true or false"),
    ('[[gate]]\nkind = "http"\nmax_latency = "x"', 'gate[1].max_latency: "x" is not a number'),
    ('[[gate]]\nkind = "http"\nexpect_status = "ok"', "is not a list of whole numbers; write for example [200, 204]"),
    ('[[gate]]\nkind = "chat"\nmessages = "x"', "is not a list of tables"),
    ('[parity]\nremoved = "blok"', 'parity.removed: "blok" is not known; did you mean "block"?'),
    ('[parity]\nmcp = "x"', 'parity.mcp: "x" is no path'),
    ('[parity]\ncontracts = ["grpc"]', 'parity.contracts: "grpc" is not known; write one of mcp, a2a, openapi, models'),
    ("ready_timeout = 0", "ready_timeout: 0.0 is too small; the least is 0.01"),
    ('[[gate]]\nkind = "http"\npath = "x y"', 'gate[1].path: "x y" is no path'),
    ('[[gate]]\nkind = "http"\nhost = "http://x"', 'gate[1].host: "http://x" is no host name'),
    ('[[gate]]\nkind = "http"\nmethod = "GO ON"', 'gate[1].method: "GO ON" cannot be used'),
    ('[[gate]]\nkind = "http"\nbody = "a"\njson = 5', "gate[1].body: json is given too"),
    ('[[gate]]\nkind = "http"\nexpect_status = 100', "100 is no final status"),
    ('[[gate]]\nkind = "http"\nexpect_status = []', "gate[1].expect_status: there is none"),
    ('[[gate]]\nkind = "http"\nmax_latency = -1', "gate[1].max_latency: -1.0 is too small"),
    ('[[gate]]\nkind = "http"\nrepeat = 100\ntimeout = 100', "gate[1].repeat: 100 times 100 s"),
    ('[[gate]]\nkind = "http"\nname = "a b"', 'gate[1].name: "a b" cannot be used'),
    ('[[gate]]\nkind="http"\nname="a"\n[[gate]]\nkind="mcp"\nname="a"', 'gate[2].name: there are two of the name "a"'),
    ('[[gate]]\nkind = "http"\nexpect_json = { "a" = 1 }', 'gate[1].expect_json."a": "a" is no JSON pointer'),
    ('[[gate]]\nkind = "http"\nexpect_json = { "/a" = { lik = "x" } }', 'there is no test "lik"; did you mean "like"?'),
    ('[[gate]]\nkind = "http"\nexpect_headers = { "a b" = "x" }', "this is no field's name"),
    ('[[gate]]\nkind = "http"\nheaders = { Host = "x" }', 'write host = "…"'),
    ('[[gate]]\nkind = "http"\nheaders = { Connection = "x" }', "this field is the client's own"),
    ('[[gate]]\nkind = "http"\nheaders = { A = "x\\ny" }', "the value holds a control character"),
    (
        '[[gate]]\nkind = "http"\nheaders = { Authorization = "Bearer x" }',
        "no secret may stand in it",
    ),
    ('[[gate]]\nkind = "http"\nheaders = { A = "${HOME}" }', "only variables such as ${GATE_TOKEN}"),
    ('[[gate]]\nkind = "mcp"\narguments = { a = 1 }', "gate[1].call: there is no tool to call"),
    ('[[gate]]\nkind = "a2a"\ntext = ""\nstream = true', "gate[1].text: no message is sent"),
    ('[[gate]]\nkind = "chat"\nmax_first_token = 1', "without a stream there is no first token"),
    ('[[gate]]\nkind = "websocket"\ntext = "a"\njson = 5', "gate[1].text: json is given too"),
    ('[[gate]]\nkind = "websocket"\nsubprotocols = "a b"', 'gate[1].subprotocols: "a b" is no subprotocol'),
    ('[[gate]]\nkind = "command"', "gate[1].command: nothing is no program"),
    ('[[gate]]\nkind = "command"\ncommand = ["ls"]', 'gate[1].command: "ls" is no program; write its absolute path'),
    ('[[gate]]\nkind = "webhook"', 'gate[1].url: "" is no address'),
    ('[[gate]]\nkind = "webhook"\nurl = "http://u:p@h/"', "is no address"),
    ('[[gate]]\nkind = "webhook"\nurl = "http://h/"\nsecret = "abc"', "gate[1].secret: a plan is kept and shown"),
    ('[[gate]]\nkind = "load"', "gate[1].slo: there is no limit to keep to"),
    ('[[gate]]\nkind = "load"\nduration = 3600\nslo = { max_p50 = 1 }', "gate[1].duration: 3600 is too large"),
    (
        '[[gate]]\nkind = "load"\nagents = 1000\nslo = { max_p50 = 1 }',
        "gate[1].agents: 1000 is too large",
    ),
    ('[[gate]]\nkind = "load"\nrate = 5\nthink = 1\nslo = { max_p50 = 1 }', "gate[1].think: with a rate nobody waits"),
    ('[[gate]]\nkind = "load"\nslo = { max_error_rate = 2 }', "gate[1].slo.max_error_rate: 2.0 is too large"),
    ("hook = 5", "hook: this is not a list of tables; write [[hook]] before each hook's keys"),
    ('[[hook]]\nurl = "http://h/"', "hook[1].at: it is told of no step"),
    ('[[hook]]\nat = ["flip"]', "hook[1].command: write either command or url"),
    ('[[hook]]\nat = ["flip"]\nurl = "http://h/"\ncommand = ["/bin/true"]', "write either command or url"),
    ('[[hook]]\nat = ["flip"]\ncommand = ["true"]', 'hook[1].command: "true" is no program'),
    ('[[hook]]\nat = ["flip"]\nurl = "h"', 'hook[1].url: "h" is no address'),
    ('[[hook]]\nat = ["flop"]\nurl = "http://h/"', 'hook[1].at: "flop" is not known; did you mean "flip"?'),
    (
        '[[hook]]\nat = "deploy"\nurl = "http://h/"',
        'hook[1].at: "deploy" is not known; write one of migrate, ready, parity',
    ),
    ('[[hook]]\nat = 5\nurl = "http://h/"', "hook[1].at: 5 is not known; write one of migrate, ready, parity, gates"),
    ('[[hook]]\nat = ["end"]\nwhen = "before"\nurl = "http://h/"', "hook[1].at: before end there is nothing to veto"),
    ('[[hook]]\nat = ["bake"]\nurl = "http://h/"', "hook[1].at: this plan has no [bake]"),
    ('[[hook]]\nat = ["flip"]\nurl = "http://h/"\nattempts = 99', "hook[1].attempts: 99 is too large; the most is 10"),
    ("[migrate]", "migrate: nothing is migrated"),
    ("[migrate]\nexpand = 5", "migrate.expand: 5 is not a table"),
    ('[migrate]\nexpand = { command = "true" }', 'migrate.expand.command: "true" is no program'),
    ("[migrate]\nexpand = {}", "migrate.expand.command: write either command or url"),
    ('[migrate]\nexpand = { run = "x" }', "migrate.expand.run: there is no such key"),
    ('[migrate]\nrevert = { url = "http://h/" }', "migrate.revert: there is nothing to revert"),
    ('[migrate]\nrehearse = true\nexpand = { url = "http://h/" }', "migrate.rehearse: what is rehearsed is the revert"),
    ('[migrate]\nrehearse = 1\nexpand = { url = "http://h/" }', "migrate.rehearse"),
    ('[[hook]]\nat = ["migrate"]\nurl = "http://h/"', "hook[1].at: this plan has no [migrate]"),
    ("[decommission]\nrollback_window = -1", "decommission.rollback_window"),
    ("[decommission]\nwindow = 1", "decommission.window: there is no such key"),
    ('[decommission]\nurl = "http://h/"\ncommand = ["/bin/true"]', "decommission.command: write either command or url"),
    ('[decommission]\nsecret = "${GATE_S}"', "decommission.secret: nothing is run or called here"),
    ("decommission = 5", "decommission: 5 is not a table"),
    ('[[hook]]\nat = ["flip"]\nurl = "http://h/"\nsecret = "x"', "hook[1].secret: a plan is kept and shown"),
    ("[bake]\nduration = 5", "bake: there is no limit to keep to"),
    ("[bake]\nmax_p95 = nan", "a value that JSON cannot say"),
    ("[bake]\nduration = 2026-01-01", "a value that JSON cannot say"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_named_with_the_remedy(text, said):
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "requests = 50\nslo = { max_p99 = 1 }",
            "at most 50 requests are sent, and this cannot be judged with",
        ),
        ("rate = 5\nduration = 10\nslo = { max_error_rate = 0.01 }", "at most 50 requests"),
        ("rate = 5\nduration = 100\nrequests = 20\nslo = { max_p99 = 1 }", "raise requests"),
        (
            "min_samples = 10\nslo = { max_p95 = 1 }",
            "10 samples cannot judge these limits; the least is 20",
        ),
        ("requests = 30\nmin_samples = 40\nslo = { max_p95 = 1 }", "gate[1].min_samples: at most 30 requests"),
    ],
)
def test_a_limit_that_cannot_be_judged_by_the_load_s_samples_is_refused(text, said):
    with pytest.raises(ConfigError) as refused:
        read(f'[[gate]]\nkind = "load"\n{text}')
    assert said in str(refused.value)


def test_nor_by_the_bake_s():
    with pytest.raises(ConfigError, match="cannot be judged with min_samples = 50; the least is 100"):
        read("[bake]\nmin_samples = 50\nmax_error_rate = 0.01")


def test_a_closed_loop_is_judged_by_what_comes_together():
    (gate,) = read('[[gate]]\nkind = "load"\nslo = { max_p99 = 1 }').gates
    assert isinstance(gate, LoadGate)


def test_all_faults_are_told_at_once_each_with_where_it_stands(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[bake]\nmax_p96 = 1\nduratoin = 1\n")
    with pytest.raises(ConfigError) as refused:
        load_plan(file)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["bake.max_p96", "bake.duratoin"]
    assert all(line.endswith(f"(file {file})") for line in lines)


def test_what_is_no_toml_is_told_with_its_line(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[[gate]\n")
    with pytest.raises(ConfigError, match="line 1, column"):
        load_plan(file)


def test_a_plan_too_large_for_the_store_is_refused():
    with pytest.raises(ConfigError, match=f"at most {MAX_BYTES} are taken"):
        plan_from({"gate": [{"kind": "http", "body": "x" * MAX_BYTES}]})


def test_so_are_too_many_gates():
    with pytest.raises(ConfigError, match="there are 33 gates, at most 32"):
        plan_from({"gate": [{"kind": "http"}] * 33})


def test_a_secret_comes_from_the_environment():
    (gate,) = read('[[gate]]\nkind = "http"\nheaders = { Authorization = "Bearer ${GATE_TOKEN}" }').gates
    assert gate == HttpGate(name="http-1", headers={"Authorization": "Bearer ${GATE_TOKEN}"})
