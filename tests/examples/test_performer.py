"""The performer: lock files and planted keys, which are put together here so as not to be found."""

import hashlib
import json

import pytest

from .stage import ListeningHub, Repository, Work

HASH = "--hash=sha256:" + "ab" * 32
LOCK = f"""#
# made by pip-compile
#
click==8.5.1 \\
    {HASH} \\
    {HASH}
    # via -r requirements.in
My_Lib[extra]==1.10.0 ; python_version < "3.12" \\
    {HASH}
    # via
    #   click
    #   rich
"""
SETTINGS = '[project]\ndependencies = ["click>=8,<9"]\noptional-dependencies.x = ["my.lib ~=1.2"]\n'

KEYS = {
    "aws-access-key": "AKIA" + "IOSFODNN7EXAMPLE",
    "anthropic-key": "sk-" + "ant-api03-" + "aB3" * 10,
    "openai-key": "sk-" + "aB3" * 12,
    "github-token": "ghp_" + "aB3" * 12,
    "gitlab-token": "glpat-" + "aB3" * 7,
    "google-key": "AIza" + "SyB3" * 8 + "abc",
    "slack-token": "xoxb-" + "123-aB3" * 4,
    "private-key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "json-web-token": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3" + ".c2lnbmF0dXJl" + "MTIzNDU",
    "assigned": "q7Zp-94kLmWx2Rt8Vb",
}


def test_dependencies_are_read_with_their_hashes_and_origins(work: Work, repository: Repository) -> None:
    repository.commit({".ci/requirements.lock": LOCK, "pyproject.toml": SETTINGS})
    given = {"do": "dependencies", "extras": ["x"]}
    result = work("performer", given, repository.path).result
    assert result["ok"] is True
    assert result["packages"] == [
        {
            "name": "click",
            "version": "8.5.1",
            "direct": True,
            "hashes": 2,
            "marker": None,
            "via": ["-r requirements.in"],
        },
        {
            "name": "my-lib",
            "version": "1.10.0",
            "direct": True,
            "hashes": 1,
            "marker": 'python_version < "3.12"',
            "via": ["click", "rich"],
        },
    ]


def test_optional_dependencies_are_asked_for_only_when_named(work: Work, repository: Repository) -> None:
    repository.commit({".ci/requirements.lock": LOCK, "pyproject.toml": SETTINGS})
    result = work("performer", {"do": "dependencies"}, repository.path).result
    assert [p["name"] for p in result["packages"] if p["direct"]] == ["click"]


def test_a_lock_that_does_not_fit_is_found(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "deps.txt": "click==7.9\nloose>=2\nother==1 \\\n    --hash=sha256:" + "0" * 64 + "\n",
            "pyproject.toml": '[project]\ndependencies = ["click>=8", "absent"]\n',
        }
    )
    given = {"do": "dependencies", "lock": "deps.txt"}
    result = work("performer", given, repository.path).result
    assert result["problems"] == [
        "'loose>=2' is not pinned with ==",
        "click has no hash",
        "absent is asked for, but not in the lock",
        "click is locked at 7.9, but >=8 is asked for",
    ]


@pytest.mark.parametrize(
    ("version", "clauses", "fits"),
    [
        ("1.10", ">=1.9,<2", True),
        ("2.0", ">=1.9,<2", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.5.0", "~=1.4", True),
        ("1.2.9", "==1.2.*", True),
        ("1.3", "==1.2.*", False),
        ("1.0", "==1", True),
        ("1.0", "!=1.0", False),
        ("2026.7.9", ">2026.7", True),
        ("1", "", True),
    ],
)
def test_versions_are_compared_as_numbers(
    work: Work, repository: Repository, version: str, clauses: str, fits: bool
) -> None:
    repository.commit(
        {
            ".ci/requirements.lock": f"x=={version} \\\n    {HASH}\n",
            "pyproject.toml": f'[project]\ndependencies = ["x{clauses}"]\n',
        }
    )
    assert work("performer", {"do": "dependencies"}, repository.path).result["ok"] is fits


def test_a_missing_lock_is_a_problem_and_no_failure(work: Work, repository: Repository) -> None:
    repository.commit({"a": ""})
    result = work("performer", {"do": "dependencies"}, repository.path).result
    assert result["problems"] == ["there is no .ci/requirements.lock"]
    assert result["ok"] is False


@pytest.mark.parametrize("rule", KEYS)
def test_a_planted_key_is_found_and_not_repeated(work: Work, repository: Repository, rule: str) -> None:
    key = KEYS[rule]
    repository.commit({"config/settings.txt": f'fine: yes\npassword = "{key}"\n'})
    done = work("performer", {"do": "secrets"}, repository.path)
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
    assert done.result["found"] == [
        {"path": "config/settings.txt", "line": 2, "rule": rule, "fingerprint": fingerprint}
    ]
    assert done.result["ok"] is False
    assert key not in json.dumps(done.result) + done.errors


@pytest.mark.parametrize(
    "line",
    [
        "token_sha256: " + hashlib.sha256(KEYS["github-token"].encode()).hexdigest(),
        'token = "' + hashlib.sha256(b"x").hexdigest() + '"',
        'secret = "sha256:' + hashlib.sha256(b"x").hexdigest() + '"',
        'api_key = "123e4567-e89b-12d3-a456-426614174000"',
        'password = "${DATABASE_PASSWORD_1}"',
        'token_file = "/run/secrets/agent-token"',
        'secret = "a-sentence-of-plain-words"',
        "risk-" + "aB3" * 12,
        "-----BEGIN PUBLIC KEY-----",
    ],
)
def test_what_only_resembles_a_key_is_not_found(work: Work, repository: Repository, line: str) -> None:
    repository.commit({"a.txt": line + "\n"})
    assert work("performer", {"do": "secrets"}, repository.path).result["found"] == []


def test_keys_in_allowed_places_are_counted(work: Work, repository: Repository) -> None:
    repository.commit({"tests/deep/a.txt": KEYS["github-token"] + "\n"})
    given = {"do": "secrets", "allow": ["tests/*"]}
    result = work("performer", given, repository.path).result
    assert result["ok"] is True
    assert result["figures"] == {"files": 1, "found": 0, "allowed": 1}


def test_a_key_alerts_the_hub_without_the_key(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.txt": KEYS["aws-access-key"] + "\n"})
    work("performer", {"do": "secrets"}, repository.path, task="secrets-scan", env=hub.env)
    (call,) = hub.received
    assert (call["message"]["type"], call["message"]["to"]) == ("security.alert", "hub")
    assert call["message"]["payload"] == {
        "severity": "high",
        "summary": "1 key in the tree",
        "task": "secrets-scan",
        "evidence": [{"path": "a.txt", "line": 1, "rule": "aws-access-key"}],
    }
    assert KEYS["aws-access-key"] not in json.dumps(hub.received)


def test_a_clean_tree_alerts_nobody(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.txt": "nothing\n"})
    assert work("performer", {"do": "secrets"}, repository.path, env=hub.env).result["ok"] is True
    assert hub.received == []
