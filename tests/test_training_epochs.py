"""Which steps belong to which epoch, also after a change of the data."""

from jaxhand.training.epochs import Epochs


def test_steps_of_epochs():
    epochs = Epochs(steps=10, count=3)
    assert [epochs.number(step) for step in (0, 9, 10, 29, 30)] == [0, 0, 1, 2, 3]
    assert [epochs.begin(number) for number in range(4)] == [0, 10, 20, 30]
    assert epochs.end(0) == 10 and epochs.last == 30


def test_a_run_that_goes_on_with_other_data():
    """In step 25 of epochs of 10 steps, the third one begins again, with 4 steps."""
    epochs = Epochs(steps=10, count=5).restarted(25, 4)
    assert epochs == Epochs(steps=4, count=5, first=2, first_step=25)
    assert [epochs.number(step) for step in (25, 28, 29, 36)] == [2, 2, 3, 4]
    assert epochs.begin(3) == epochs.end(2) == 29 and epochs.last == 37
