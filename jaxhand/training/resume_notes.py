"""What a continued run prints about the things that differ from its latest checkpoint."""

from jaxhand.training.checkpoint_files import Restored
from jaxhand.training.epochs import Epochs

_SETS = {"train": "The training set", "test": "The test set", "hand": "The hand model"}


def lines(
    saved: Restored, changed: dict[str, str], before: Epochs, now: Epochs, rates: tuple[float, float]
) -> list[str]:
    """Describe what differs, one line each; none if nothing does.

    Args:
        saved: the checkpoint.
        changed: what `run_dir.changed_data` returned.
        before: the epochs as the checkpoint counts them.
        now: the epochs of the continued run.
        rates: learning rate of the next step, in the schedule of the checkpoint and in that of today's config.
    """
    found = [] if "fingerprints" in saved.meta else [
        "The checkpoint has no fingerprints of the data, because an older version wrote it: whether the data are the "
        "same is not checked"
    ]  # fmt: skip
    found += [f"{_SETS[name]} has changed: {difference}" for name, difference in changed.items()]
    if now.first_step != before.first_step:
        again = "" if before.begin(now.first) == saved.step else " again"
        found.append(
            f"Epoch {now.first} begins{again} at step {saved.step}, with {now.steps} steps per epoch "
            f"(before: {before.steps}); it is counted from there"
        )
    if "test" in changed:
        found.append("The best step is chosen anew, among the steps from here on: earlier ones had another test set")
    old_count = saved.meta["config"]["training"]["num_epochs"]
    if now.count != old_count:
        found.append(f"training.num_epochs is {now.count} (before: {old_count})")
    if now.last != before._replace(count=old_count).last:
        old_rate, new_rate = rates
        same = "stays" if old_rate == new_rate else f"is not {old_rate:.2e} but"
        found.append(
            f"The schedule of the learning rate now ends at step {now.last} (before: "
            f"{before._replace(count=old_count).last}); the rate of the next step {same} {new_rate:.2e}"
        )
    return found
