"""The work of a maintainer, as five workflows over the webhook events of a code-hosting service.

| workflow    | starts when                     | shows                                                              |
|-------------|---------------------------------|--------------------------------------------------------------------|
| triage      | an issue is opened              | pausing until a label is set; comments are counted meanwhile       |
| gate        | a pull request is opened        | one gate per pull request, a wait with a timeout and a reminder    |
| releases    | a release is published          | one after another per repository, with a durable delay             |
| deployments | a deployment is created         | exclusive per environment: a second one is rejected                |
| watcher     | a status or a check comes in    | one loop at most; what comes while it runs is a signal to it       |

Run it with `poundlock run examples/maintainer_desk.py --events examples/data/events.jsonl --store sqlite:///desk.db`.
Steps are plain functions: their parameters are fields of the run's state, and what they return is merged into it.
"""

import asyncio
from typing import Any

from poundlock import (
    Condition,
    Delay,
    Event,
    Exclusive,
    Jump,
    Serialized,
    SingletonLoop,
    StateRef,
    StepContext,
    Terminate,
    Workflow,
)

# Payloads are large, and the state of a run is stored, so `map=` and `patch=` keep only what the steps need.
SAME_REPOSITORY = {"repository.full_name": StateRef("repository")}


def about(event: Event) -> str:
    """Return what an event is about, such as "octo/hello#7"; runs are listed under it."""
    subject = event.payload.get("issue") or event.payload["pull_request"]
    return f"{event.payload['repository']['full_name']}#{subject['number']}"


# ---------------------------------------------------------------------------------------------------------- triage
triage = Workflow("triage", label="An issue waits for a label")


def opened_issue(event: Event) -> dict[str, Any]:
    """Return the fields of an issue that triage needs; a run starts with them."""
    issue = event.payload["issue"]
    return {
        "repository": event.payload["repository"]["full_name"],
        "number": issue["number"],
        "title": issue["title"],
        "author": issue["user"]["login"],
        "comments": 0,
    }


@triage.on("github.issues.opened", key=about, map=opened_issue)
@triage.step
def guess(title: str) -> dict[str, str]:
    """Guess a label from the title."""
    spelling = any(word in title.lower() for word in ("spelling", "typo", "readme"))
    return {"guess": "documentation" if spelling else "bug"}


def answered(event: Event) -> dict[str, Any]:
    """Keep the label, or who commented."""
    if event.type == "github.issues.labeled":
        return {"label": event.payload["label"]["name"]}
    return {"commented_by": event.payload["comment"]["user"]["login"]}


triage.wait(
    "answer",
    on=["github.issues.labeled", "github.issue_comment.created"],
    correlate={**SAME_REPOSITORY, "issue.number": StateRef("number")},
    where=[Condition("sender.type", "!=", "Bot")],
    patch=answered,
)


@triage.step
def note(comments: int, label: str | None = None) -> dict[str, int]:
    """Count the comments that came before the label."""
    return {"comments": comments if label else comments + 1}


@triage.route(after="note")
def labelled(state: Any) -> Jump | Terminate:
    """A label ends the triage; after a comment it goes on waiting."""
    return Terminate(f"filed under {state['label']}") if "label" in state else Jump("answer")


# ------------------------------------------------------------------------------------------------------------ gate
gate = Workflow(
    "gate", label="A pull request waits for an approving review", mode=Exclusive(on_busy="reject", key=about)
)


def opened_pull(event: Event) -> dict[str, Any]:
    """Return the fields of a pull request that the gate needs."""
    pull = event.payload["pull_request"]
    return {
        "repository": event.payload["repository"]["full_name"],
        "number": pull["number"],
        "title": pull["title"],
        "lines": pull["additions"] + pull["deletions"],
        "draft": pull["draft"],
    }


@gate.on("github.pull_request.opened", map=opened_pull)
@gate.step(stage="check")
def size(lines: int) -> dict[str, str]:
    """Say how much there is to review."""
    return {"size": "small" if lines < 100 else "large"}


@gate.step(stage="check")
def ready(draft: bool, title: str) -> dict[str, bool]:
    """Say whether it is ready for review; runs together with `size`."""
    return {"ready": not draft and not title.lower().startswith("wip")}


def reviewed(event: Event) -> dict[str, Any]:
    """Keep who said what."""
    review = event.payload["review"]
    return {"review": {"state": review["state"], "by": review["user"]["login"]}}


gate.wait(
    "review",
    on="github.pull_request_review.submitted",
    correlate={**SAME_REPOSITORY, "pull_request.number": StateRef("number")},
    timeout="3d",
    on_timeout="remind",
    patch=reviewed,
)


@gate.step
def weigh(review: dict[str, str], reviews: tuple[str, ...] = ()) -> dict[str, Any]:
    """Keep a list of all reviews."""
    return {"reviews": [*reviews, f"{review['by']}: {review['state']}"]}


@gate.route(after="weigh")
def approved(state: Any) -> str:
    """Only an approval opens the gate."""
    return "merge" if state["review"]["state"] == "approved" else "review"


@gate.step
def remind(reminders: int = 0) -> dict[str, int]:
    """Count a reminder; the run goes here if no review comes in time."""
    return {"reminders": reminders + 1}


@gate.route(after="remind")
def patience(state: Any) -> Jump | Terminate:
    """Give up after the second reminder."""
    return Jump("review") if state["reminders"] < 3 else Terminate("no review in time")


@gate.step
def merge(number: int, review: dict[str, str]) -> Terminate:
    """Open the gate."""
    return Terminate(f"#{number} may be merged, says {review['by']}")


# -------------------------------------------------------------------------------------------------------- releases
releases = Workflow(
    "releases", label="Releases of a repository, one after the other", mode=Serialized(key="repository.full_name")
)


def published_release(event: Event) -> dict[str, Any]:
    """Return the fields of a release that its run needs."""
    release = event.payload["release"]
    return {"repository": event.payload["repository"]["full_name"], "tag": release["tag_name"], "name": release["name"]}


@releases.on("github.release.published", map=published_release)
@releases.on("github.release.released", map=published_release)
@releases.step
def upload(tag: str, repository: str) -> dict[str, str]:
    """Put the archive where mirrors find it."""
    return {"archive": f"{repository}/archive/{tag}.tar.gz"}


@releases.route(after="upload")
def let_mirrors_catch_up() -> Delay:
    """Wait a moment; meanwhile the next release of this repository is queued."""
    return Delay(seconds=0.2)


@releases.step
def announce(repository: str, tag: str, name: str | None = None) -> Terminate:
    """Announce the release."""
    return Terminate(f"{repository} {name or tag} is out")


# ----------------------------------------------------------------------------------------------------- deployments
deployments = Workflow(
    "deployments",
    label="One deployment per environment",
    mode=Exclusive(on_busy="reject", key="deployment.environment"),
)


def created_deployment(event: Event) -> dict[str, Any]:
    """Return the fields of a deployment that its run needs."""
    deployment = event.payload["deployment"]
    return {
        "repository": event.payload["repository"]["full_name"],
        "environment": deployment["environment"],
        "commit": deployment["sha"],
    }


@deployments.on("github.deployment.created", map=created_deployment)
@deployments.step
def roll_out(ctx: StepContext, environment: str, commit: str) -> None:
    """Start the deployment; with the key, a second attempt after a crash does no harm."""
    ctx.logger.info("rolling out %s to %s with key %s", commit[:7], environment, ctx.idempotency_key)


deployments.wait(
    "status",
    on="github.deployment_status.created",
    correlate={**SAME_REPOSITORY, "deployment.environment": StateRef("environment")},
    where=[Condition("deployment_status.state", "!=", "in_progress")],
    timeout="1h",
    on_timeout="roll_back",
    patch=lambda event: {"outcome": event.payload["deployment_status"]["state"]},
)


@deployments.step
def finish(outcome: str) -> Jump | Terminate:
    """End with a success, or roll back."""
    return Terminate(outcome) if outcome == "success" else Jump("roll_back")


@deployments.step
def roll_back(environment: str) -> Terminate:
    """Restore the last good commit."""
    return Terminate(f"{environment} was rolled back")


# --------------------------------------------------------------------------------------------------------- watcher
watcher = Workflow("watcher", label="Follows statuses and checks until it is quiet", mode=SingletonLoop("signal"))

QUIET_LOOKS = 3
"""The watcher ends after this many looks, a tenth of a second apart, without anything new."""


def status(event: Event) -> dict[str, Any]:
    """Return a status as an entry of `checks`; as a signal it is merged into the state of the running watcher."""
    return {"checks": {f"{event.payload['sha'][:7]} {event.payload['context']}": event.payload["state"]}}


def completed_check(event: Event) -> dict[str, Any]:
    """Return a check run in the same form."""
    check = event.payload["check_run"]
    return {"checks": {f"{check['head_sha'][:7]} {check['name']}": check["conclusion"]}}


@watcher.on("github.status", map=status)
@watcher.on("github.check_run.completed", map=completed_check)
@watcher.step
async def watch(ctx: StepContext) -> dict[str, Any]:
    """Log statuses and checks until nothing new has come for a while."""
    seen: dict[str, str] = {}
    calm = 0
    while calm < QUIET_LOOKS:
        checks = dict(ctx.latest()["checks"])
        for name, outcome in checks.items():
            if seen.get(name) != outcome:
                ctx.logger.info("%s: %s", name, outcome)
        calm = calm + 1 if checks == seen else 0
        seen = checks
        await asyncio.sleep(0.1)
    return {"seen": seen}


@watcher.route(after="watch")
def all_seen(state: Any) -> Jump | Terminate:
    """Go back if a status came at the last moment."""
    if state["seen"] != state["checks"]:
        return Jump("watch")
    broken = [name for name, outcome in state["checks"].items() if outcome not in ("success", "neutral")]
    return Terminate(f"{len(broken)} of {len(state['checks'])} broken")
