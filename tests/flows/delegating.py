"""What a program of an agent does to delegate: text that other programs begin with."""

DELEGATING = """
import json, os, urllib.request

def call(path, body=None):
    token = open(os.environ["HUB_TOKEN_FILE"]).read().strip()
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(os.environ["HUB_URL"] + path, data, {"Authorization": "Bearer " + token})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.status, json.load(answer)

def ask(wait="", **payload):
    id_ = os.urandom(8).hex()
    envelope = {"id": id_, "type": "delegation.request", "pattern": "request", "to": "hub", "payload": payload}
    status, answer = call("/api/hub/messages" + wait, envelope)
    return id_, answer["payload"] if status == 200 else None

def delegate(**payload):
    id_, answer = ask("?wait=5", **payload)
    return answer or find([id_])[id_]

def find(ids):
    found, cursor = {}, ""
    while not set(ids) <= found.keys():
        _, polled = call("/api/hub/messages?wait=20" + ("&ack=" + cursor if cursor else ""))
        cursor = polled["cursor"]
        found.update({m.get("correlation_id"): m["payload"] for m in polled["messages"]})
    return found
"""
