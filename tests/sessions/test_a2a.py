"""A2A 0.3 and 1.0, over JSON-RPC and REST, by messages as the protocol's documents print them."""

import json
from typing import Any

import pytest
from turns import turn

TASK, CONTEXT = (
    ("a2a.task", b"363422be-b0f9-4692-a24d-278670e7c7f1"),
    ("a2a.context", b"c295ea44-7543-4f78-b524-7a38915ad6e4"),
)
T, C = TASK[1].decode(), CONTEXT[1].decode()
PARTS = [{"kind": "text", "text": 'tell me a joke about {"taskId": "x"}'}]


def post(method: str, params: Any, target: str = "/a2a") -> str:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, indent=1)
    return f"POST {target} HTTP/1.1\nContent-Type: application/json\nA2A-Version: 1.0\n\n{body}"


def rest(line: str, body: Any = None, kind: str = "application/json") -> str:
    return f"{line} HTTP/1.1\nContent-Type: {kind}\n\n{json.dumps(body) if body is not None else ''}"


def reply(body: Any) -> str:
    return f"HTTP/1.1 200 OK\nContent-Type: application/json; charset=utf-8\n\n{json.dumps(body)}"


def stream(*events: Any) -> str:
    data = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events)
    return f"HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\n\n{data}"


def rpc(result: Any) -> Any:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


FIRST = post("message/send", {"message": {"role": "user", "parts": PARTS, "messageId": "9229e770"}})
STATUS = {"state": "working", "timestamp": "2024-03-15T10:05:00Z"}


@pytest.mark.parametrize("method", ["message/send", "message/stream", "SendMessage", "SendStreamingMessage"])
def test_a_message_names_its_task_and_its_context_the_task_first(method: str) -> None:
    message = {"role": "ROLE_USER", "parts": PARTS, "messageId": "m", "contextId": C, "taskId": T, "kind": "message"}
    assert turn(post(method, {"message": message, "metadata": {}})).keys == [TASK, CONTEXT]
    assert turn(post(method, {"message": {"contextId": C, "parts": PARTS}})).keys == [CONTEXT]


def test_a_message_is_read_no_further_than_its_ids() -> None:
    request = post("message/send", {"message": {"taskId": T, "contextId": C, "parts": PARTS * 1_000}})
    seen = turn(request)
    assert (seen.keys, seen.preset) == ([TASK, CONTEXT], "a2a")
    assert seen.read < 300


def test_a_first_message_has_no_key_and_is_read_to_its_end() -> None:
    seen = turn(FIRST)
    assert (seen.keys, seen.preset, seen.unread) == ([], "", "")


@pytest.mark.parametrize(
    "method", ["tasks/get", "tasks/cancel", "tasks/resubscribe", "GetTask", "CancelTask", "SubscribeToTask"]
)
def test_a_method_on_a_task_names_it(method: str) -> None:
    seen = turn(post(method, {"id": T, "historyLength": 10}))
    assert seen.keys == [TASK]
    backwards = f'POST / HTTP/1.1\nContent-Type: application/json\n\n{{"params":{{"id":"{T}"}},"method":"{method}"}}'
    assert turn(backwards).keys == [TASK]


@pytest.mark.parametrize(
    "method", ["tasks/pushNotificationConfig/set", "CreateTaskPushNotificationConfig", "GetTaskPushNotificationConfig"]
)
def test_a_configuration_names_its_task_beside_its_own_id(method: str) -> None:
    assert turn(post(method, {"taskId": T, "id": "config-1", "pushNotificationConfig": {"url": "x"}})).keys == [TASK]


@pytest.mark.parametrize("method", ["tools/call", "resources/read", "anything"])
def test_the_parameters_of_other_methods_are_no_ids(method: str) -> None:
    assert turn(post(method, {"id": T, "taskId": T, "contextId": C})).keys == []


def test_a_list_of_a_context_names_it() -> None:
    assert turn(post("ListTasks", {"contextId": C, "pageSize": 10})).keys == [CONTEXT]


@pytest.mark.parametrize("kind", ["message", "statusUpdate", "artifactUpdate"])
def test_an_answer_of_1_0_mints_what_it_is_about(kind: str) -> None:
    assert turn(FIRST, reply(rpc({kind: {"taskId": T, "contextId": C, "status": STATUS}}))).minted == [TASK, CONTEXT]


def test_a_task_of_1_0_is_minted() -> None:
    task = {"task": {"id": T, "contextId": C, "status": {"state": "TASK_STATE_WORKING"}, "history": [{"taskId": "x"}]}}
    assert turn(FIRST, reply(rpc(task))).minted == [TASK, CONTEXT]


def test_a_task_of_0_3_is_minted() -> None:
    task = {"id": T, "contextId": C, "status": {"state": "completed"}, "artifacts": [], "history": [], "kind": "task"}
    assert turn(FIRST, reply(rpc(task))).minted == [TASK, CONTEXT]


@pytest.mark.parametrize("kind", ["message", "status-update", "artifact-update"])
def test_an_answer_of_0_3_mints_what_it_is_about(kind: str) -> None:
    assert turn(FIRST, reply(rpc({"taskId": T, "contextId": C, "kind": kind}))).minted == [TASK, CONTEXT]


def test_an_answer_of_another_protocol_mints_nothing() -> None:
    assert turn(FIRST, reply(rpc({"id": T, "contextId": C}))).minted == []
    assert turn(FIRST, reply(rpc({"taskId": T, "content": []}))).minted == []
    assert turn(FIRST, reply({"jsonrpc": "2.0", "id": T, "error": {"code": -32001, "data": {"id": T}}})).minted == []


def test_the_first_event_of_a_stream_mints() -> None:
    status = {"taskId": T, "contextId": C, "status": STATUS, "final": False, "kind": "status-update"}
    task = {"id": T, "contextId": C, "status": {"state": "submitted"}, "kind": "task"}
    assert turn(FIRST, stream(rpc(task), rpc(status), rpc(status))).minted == [TASK, CONTEXT]
    assert turn(FIRST, stream(rpc(status))).minted == [TASK, CONTEXT]
    assert turn(FIRST, stream(rpc({"statusUpdate": {"taskId": T, "contextId": C}}))).minted == [TASK, CONTEXT]


def test_what_the_request_named_is_not_minted_again() -> None:
    request = post("message/stream", {"message": {"contextId": C, "parts": PARTS}})
    event = rpc({"task": {"id": T, "contextId": C, "status": STATUS}})
    seen = turn(request, stream(event, event))
    assert (seen.keys, seen.minted) == ([CONTEXT], [TASK])


@pytest.mark.parametrize("prefix", ["", "/v1", "/tenant-7", "/base/tenant-7"])
@pytest.mark.parametrize(
    "rest_of", ["", ":cancel", ":subscribe", "/pushNotificationConfigs", "/pushNotificationConfigs/c"]
)
def test_a_path_names_a_task(prefix: str, rest_of: str) -> None:
    assert turn(rest(f"GET {prefix}/tasks/{T}{rest_of}?historyLength=1")).keys == [TASK]


def test_the_body_of_a_request_on_a_task_is_let_pass() -> None:
    assert turn(rest(f"POST /tasks/{T}:cancel", {"metadata": {}})).read == 0


@pytest.mark.parametrize("target", ["/tasks", f"/tasks/{T}/other", f"/mytasks/{T}", "/tasks/"])
def test_another_path_names_none(target: str) -> None:
    assert turn(rest(f"GET {target}")).keys == []


def test_a_list_may_be_of_a_context() -> None:
    assert turn(rest(f"GET /tenant/tasks?pageSize=1&contextId={C}")).keys == [CONTEXT]
    assert turn(rest(f"GET /other?contextId={C}")).keys == []


@pytest.mark.parametrize("target", ["/message:send", "/v1/message:stream", "/tenant/message:send"])
def test_a_message_over_rest_names_its_ids(target: str) -> None:
    body = {"message": {"messageId": "m", "contextId": C, "taskId": T, "role": "ROLE_USER", "parts": PARTS}}
    assert turn(rest(f"POST {target}", body, "application/a2a+json")).keys == [TASK, CONTEXT]


@pytest.mark.parametrize("message", ["message", "request"])
@pytest.mark.parametrize("names", [("task_id", "context_id"), ("taskId", "contextId")])
def test_a_message_over_rest_may_have_the_names_of_its_protobuf(message: str, names: tuple[str, str]) -> None:
    """As a2a-sdk's client of 0.3 writes it."""
    ids = dict(zip(names, (T, C), strict=True))
    sent = {"message_id": "5967cca6", **ids, "role": "ROLE_USER", "content": [{"text": "1"}]}
    body = {message: sent, "configuration": {"blocking": True}}
    assert turn(rest("POST /v1/message:send", body)).keys == [TASK, CONTEXT]


def test_answers_over_rest_have_no_envelope() -> None:
    request = rest("POST /message:stream", {"message": {"messageId": "m", "parts": PARTS}})
    assert turn(request, reply({"task": {"id": T, "contextId": C}})).minted == [TASK, CONTEXT]
    assert turn(request, stream({"statusUpdate": {"taskId": T, "contextId": C}})).minted == [TASK, CONTEXT]
    assert turn(request, reply({"message": {"contextId": C, "messageId": "x"}})).minted == [CONTEXT]


def test_a_task_that_was_asked_for_tells_its_context() -> None:
    assert turn(rest(f"GET /tasks/{T}"), reply({"id": T, "contextId": C, "status": {}})).minted == [CONTEXT]
    asked = post("GetTask", {"id": T})
    assert turn(asked, reply(rpc({"id": T, "contextId": C, "status": {"state": "TASK_STATE_WORKING"}}))).minted == [
        CONTEXT
    ]


def test_a_batch_is_read_for_the_first_of_its_messages_that_has_ids() -> None:
    messages = [
        {"jsonrpc": "2.0", "method": "x"},
        {"method": "message/send", "params": {"message": {"taskId": T, "contextId": C}}},
    ]
    assert turn(rest("POST /", messages)).keys == [TASK, CONTEXT]
