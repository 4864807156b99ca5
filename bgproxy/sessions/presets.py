"""The table of the protocols: where each of them puts the ids of a session.

Sources: the Model Context Protocol's specification in its versions 2024-11-05 to 2026-07-28, the A2A protocol 0.3 and
1.0, OpenAI's API reference, the LangGraph server's API, the AG-UI events, Google ADK's API server, and the runtime
contract of Bedrock AgentCore. What is read here is what their examples have.
"""

from __future__ import annotations

import re
from typing import Final

from bgproxy.sessions.preset import (
    CHAIN,
    CONTEXT,
    LOOSE,
    SESSION,
    TASK,
    EventLink,
    Field,
    Group,
    Member,
    Path,
    Preset,
    Query,
)

_TASK_METHODS = rb"tasks/(?:get|update|cancel)"
# The first version whose clients must send the Mcp-* fields truthfully; from an older client they mean nothing.
_SINCE_2026 = rb"2026-(?:07-(?:2[89]|3[01])|(?:08|09|1[0-2])-\d\d)|(?:202[7-9]|20[3-9]\d)-\d\d-\d\d"


def _task(*at: str) -> Member:
    return Member(at, "a2a.task", TASK)


def _context(*at: str) -> Member:
    return Member(at, "a2a.context", CONTEXT)


def _names(*values: bytes) -> frozenset[bytes]:
    return frozenset(values)


MCP: Final = Preset(
    "mcp",
    gone=404,
    delete_ends=True,
    get_listens=True,
    ending="not_found",  # a server that has ended a session must answer so, and the client must initialize again
    # Without a session 404 would say that there is no such method.
    unknown=(("mcp.task", -32602), ("mcp.state", -32602)),
    fields=(
        Field(b"mcp-session-id", "mcp", SESSION),
        Field(
            b"mcp-name",
            "mcp.task",
            TASK,
            form="encoded",
            needs=((b"mcp-method", re.compile(_TASK_METHODS)), (b"mcp-protocol-version", re.compile(_SINCE_2026))),
        ),
    ),
    queries=(Query(b"sessionId", "mcp.sse", SESSION), Query(b"session_id", "mcp.sse", SESSION)),
    groups=(
        Group((Member(("params", "requestState"), "mcp.state", CONTEXT, opaque=True),)),
        Group(
            (Member(("params", "taskId"), "mcp.task", TASK),),
            guard=("method",),
            among=_names(b"tasks/get", b"tasks/update", b"tasks/cancel", b"tasks/result"),
        ),
    ),
    learn_fields=(Field(b"mcp-session-id", "mcp", SESSION),),
    learn_groups=(
        Group((Member(("result", "taskId"), "mcp.task", TASK),), guard=("result", "resultType"), among=_names(b"task")),
        Group((Member(("result", "task", "taskId"), "mcp.task", TASK),)),  # 2025-11-25
        Group((Member(("result", "requestState"), "mcp.state", CONTEXT, opaque=True),)),
    ),
    learn_links=(EventLink(b"endpoint", (b"sessionId", b"session_id"), "mcp.sse", SESSION),),
)

_A2A_BY_ID = _names(
    b"tasks/get",
    b"tasks/cancel",
    b"tasks/resubscribe",
    b"tasks/pushNotificationConfig/get",
    b"tasks/pushNotificationConfig/list",
    b"tasks/pushNotificationConfig/delete",
    b"GetTask",
    b"CancelTask",
    b"SubscribeToTask",
)
_A2A_BY_TASK_ID = _names(
    b"tasks/pushNotificationConfig/set",
    b"CreateTaskPushNotificationConfig",
    b"GetTaskPushNotificationConfig",
    b"ListTaskPushNotificationConfigs",
    b"DeleteTaskPushNotificationConfig",
)


def _a2a_answers(*envelope: str) -> tuple[Group, ...]:
    """What an answer or an event holds one of, within JSON-RPC's `result` or bare."""
    task = Group((_task(*envelope, "task", "id"), _context(*envelope, "task", "contextId")))
    updates = tuple(
        Group((_task(*envelope, kind, "taskId"), _context(*envelope, kind, "contextId")))
        for kind in ("message", "statusUpdate", "artifactUpdate")
    )
    return (task, *updates)


A2A: Final = Preset(
    "a2a",
    ending="jsonrpc",
    unknown=(("a2a.task", -32001),),  # TaskNotFoundError; there is none for a context
    queries=(Query(b"contextId", "a2a.context", CONTEXT, re.compile(rb"/tasks\Z")),),
    paths=(
        Path(
            re.compile(rb"/tasks/([^/:]+)(?::[a-z]+|/pushNotificationConfigs(?:/[^/]*)?)?\Z"),
            b"/tasks/",
            "a2a.task",
            TASK,
            place="task",
        ),
    ),
    groups=(
        Group((_task("params", "message", "taskId"), _context("params", "message", "contextId"))),
        Group((_task("params", "id"),), guard=("method",), among=_A2A_BY_ID),
        Group((_task("params", "taskId"),), guard=("method",), among=_A2A_BY_TASK_ID),
        Group((_context("params", "contextId"),), guard=("method",), among=_names(b"tasks/list", b"ListTasks")),
        Group((_task("message", "taskId"), _context("message", "contextId"))),
        # REST is written by protobuf's JSON, whose readers take a field's own name too, and there is SDK code that
        # writes those; in 0.3 the message's own name is `request`.
        Group((_task("message", "task_id"), _context("message", "context_id"))),
        Group((_task("request", "task_id"), _context("request", "context_id"))),
        Group((_task("request", "taskId"), _context("request", "contextId"))),
    ),
    learn_groups=(
        *_a2a_answers("result"),
        *_a2a_answers(),
        # A task itself is the result: of 0.3's methods, and of 1.0's GetTask and CancelTask.
        Group((_task("result", "id"), _context("result", "contextId")), guard=("result", "status", "state")),
        Group(
            (_task("result", "taskId"), _context("result", "contextId")),
            guard=("result", "kind"),
            among=_names(b"message", b"status-update", b"artifact-update"),
        ),
        Group((_task("id"), _context("contextId")), place="task"),
    ),
)

_RESPONSE_ID = ("openai.response", CHAIN)
_CONVERSATION_ID = ("openai.conversation", CONTEXT)
_THREAD_ID = ("openai.thread", CONTEXT)

OPENAI: Final = Preset(
    "openai",
    queries=(Query(b"call_id", "openai.call", SESSION, re.compile(rb"/realtime\Z")),),
    paths=(
        Path(re.compile(rb"/responses\Z"), b"/responses", place="responses"),
        Path(re.compile(rb"/v1/responses/([^/]+)"), b"/v1/responses/", *_RESPONSE_ID),
        Path(re.compile(rb"/v1/conversations\Z"), b"/v1/conversations", place="conversations"),
        Path(re.compile(rb"/v1/conversations/([^/]+)"), b"/v1/conversations/", *_CONVERSATION_ID, ends=True),
        Path(re.compile(rb"/v1/threads\Z"), b"/v1/threads", place="threads"),
        Path(re.compile(rb"/v1/threads/runs\Z"), b"/v1/threads/runs", place="runs"),
        Path(re.compile(rb"/v1/threads/(thread_[^/]+)"), b"/v1/threads/thread_", *_THREAD_ID, ends=True),
        Path(re.compile(rb"/v1/realtime/calls/([^/]+)"), b"/v1/realtime/calls/", "openai.call", SESSION),
    ),
    groups=(
        Group((Member(("previous_response_id",), *_RESPONSE_ID),), place="responses"),
        Group((Member(("conversation",), *_CONVERSATION_ID),), place="responses"),
        Group((Member(("conversation", "id"), *_CONVERSATION_ID),), place="responses"),
    ),
    learn_locations=(Path(re.compile(rb"/realtime/calls/([^/]+)"), b"", "openai.call", SESSION),),
    learn_groups=(
        Group((Member(("id",), *_RESPONSE_ID), Member(("conversation", "id"), *_CONVERSATION_ID)), place="responses"),
        Group(
            (
                Member(("response", "id"), *_RESPONSE_ID),
                Member(("response", "conversation", "id"), *_CONVERSATION_ID),
            ),
            place="responses",
        ),
        Group((Member(("id",), *_CONVERSATION_ID),), place="conversations"),
        Group((Member(("id",), *_THREAD_ID),), place="threads"),
        Group((Member(("thread_id",), *_THREAD_ID),), place="runs"),
    ),
)

# OpenAI's threads have the same paths and another form of id.
_LANGGRAPH_THREAD = rb"/threads/(?!thread_|(?:search|count|runs|crons|state)(?:/|\Z))([^/]+)"

LANGGRAPH: Final = Preset(
    "langgraph",
    sticky_host=False,  # its threads live in a database
    ending="not_found",  # as for a thread that there is not
    paths=(
        Path(re.compile(rb"/threads\Z"), b"/threads", place="threads"),
        Path(re.compile(_LANGGRAPH_THREAD), b"/threads/", "langgraph.thread", SESSION, ends=True),
    ),
    groups=(Group((Member(("thread_id",), "langgraph.thread", SESSION),), place="threads"),),
    learn_locations=(Path(re.compile(_LANGGRAPH_THREAD), b"/threads/", "langgraph.thread", SESSION),),
    learn_groups=(Group((Member(("thread_id",), "langgraph.thread", SESSION),), place="threads"),),
)

# A run's id is new with every turn and stands beside the thread's, so it is no key: it would be written each time.
AG_UI: Final = Preset(
    "ag-ui",
    groups=(Group((Member(("threadId",), "ag-ui.thread", SESSION),)),),
    learn_groups=(
        Group((Member(("threadId",), "ag-ui.thread", SESSION),), guard=("type",), among=_names(b"RUN_STARTED")),
    ),
)


def _adk(*names: str) -> tuple[Member, ...]:
    return tuple(Member((name,), "adk", SESSION) for name in names)


ADK: Final = Preset(
    "adk",
    ending="not_found",  # as for a session that there is not
    paths=(
        Path(re.compile(rb"/run(?:_sse)?\Z"), b"/run", place="run"),
        Path(re.compile(rb"/apps/[^/]+/users/[^/]+/sessions/?\Z"), b"/sessions", place="sessions"),
        Path(re.compile(rb"/apps/([^/]+)/users/([^/]+)/sessions/([^/:]+)"), b"/sessions/", "adk", SESSION, ends=True),
    ),
    groups=(
        Group(_adk("app_name", "user_id", "session_id"), joined=True, place="run"),
        Group(_adk("appName", "userId", "sessionId"), joined=True, place="run"),
    ),
    learn_groups=(
        Group(_adk("app_name", "user_id", "id"), joined=True, place="sessions"),
        Group(_adk("appName", "userId", "id"), joined=True, place="sessions"),
    ),
)

_AGENTCORE = Field(b"x-amzn-bedrock-agentcore-runtime-session-id", "agentcore", SESSION)
AGENTCORE: Final = Preset("agentcore", fields=(_AGENTCORE,), learn_fields=(_AGENTCORE,))

WEBSOCKET: Final = Preset("websocket", protocol=False, connection=True)

# Each event's id is a key, so each is written to the store: for streams of few events that are taken up again.
SSE: Final = Preset(
    "sse",
    protocol=False,
    fields=(Field(b"last-event-id", "sse", LOOSE),),
    learn_event_ids=(("sse", LOOSE),),
)

PROTOCOLS: Final = {
    preset.name: preset for preset in (MCP, A2A, OPENAI, LANGGRAPH, AG_UI, ADK, AGENTCORE, WEBSOCKET, SSE)
}
DEFAULT_PRESETS: Final = ("mcp", "a2a", "openai", "langgraph", "ag-ui", "agentcore", "websocket")
