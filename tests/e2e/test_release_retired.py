"""A release's whole life on a real proxy: its schema migrated and rehearsed, flipped to, the old one taken down by
itself, and all of it in a report; with programs that note when they were run.
"""

from __future__ import annotations

import json
from pathlib import Path

from serving import Town, cli, until

from tests.e2e.releases import begin, ended


def noted(file: Path, word: str) -> dict[str, list[str]]:
    return {"command": ["/bin/sh", "-c", f"echo {word} $BGPROXY_STEP $BGPROXY_RELEASE >> {file}"]}


async def test_from_its_schema_to_the_end_of_the_old_one_and_the_report(town: Town, tmp_path: Path):
    serve = await town.serve(await town.agent("v1"), BGPROXY_ROLLOUT__COMMANDS="/bin/sh")
    v2, file = await town.agent("v2"), tmp_path / "ran"
    migrate = {name: noted(file, name) for name in ("expand", "revert", "contract")}
    stopped = {"migrate": migrate, "gate": [{"kind": "command", "name": "no", "command": ["/bin/sh", "-c", "exit 3"]}]}
    await begin(serve, v2, stopped)
    assert (await ended(serve))["outcome"] == "stopped"
    await until(lambda: len(file.read_text().splitlines()) == 2)
    plan = {"migrate": {**migrate, "rehearse": True}}
    plan |= {"decommission": {**noted(file, "down"), "rollback_window": 0, "automatic": True}}

    async def free() -> bool:  # while the revert is put on record nothing else is begun
        asked = {"color": "green", "release": "v2", "upstreams": [v2.url], "plan": plan}
        return (await serve.api("POST", "/v1/run", asked))[0] == 200

    await until(free)
    assert (await ended(serve))["outcome"] == "settled"

    async def gone() -> bool:
        blue = (await serve.status())["colors"]["blue"]
        return bool(blue["phase"] == "retired" and blue["retirement"] is None)

    await until(gone)
    blue = (await serve.status())["colors"]["blue"]["upstreams"]
    assert [one["healthy"] for one in blue] == [None], "what is scaled to zero is not told to be unwell"
    assert file.read_text().splitlines() == [
        "expand migrate:expand v2",
        "revert migrate:revert v2",
        "expand migrate:expand v2",
        "revert migrate:revert v2",
        "expand migrate:expand-again v2",
        "down retire initial",
        "contract migrate:contract initial",
    ]
    code, _, err = await cli("rollback", "--force", "--admin", serve.admin)
    assert (code, "there is no rollback past it" in err) == (1, True), err
    html, plain = tmp_path / "v2.html", tmp_path / "v2.json"
    code, out, err = await cli("report", "v2", "--html", str(html), "--json", str(plain), "--admin", serve.admin)
    assert code == 0, err
    document = json.loads(plain.read_text())
    assert [run["outcome"] for run in document["runs"]] == ["stopped", "settled"]
    assert (document["chain"]["intact"], document["begins"]["known"]) == (True, True)
    assert [flip["ledger"]["lost"] for flip in document["flips"]] == [0]
    assert document["chain"]["head"] in out
    assert "migrate:expand-again" in html.read_text()
