"""Names of checkpoints, written and read back."""

from mocoop.toolbox.dassl import files


def test_a_checkpoints_name_says_its_epoch():
    assert files.numbered(12) == "model.pth.tar-12" and files.rolling(3) == "model-rolling.pth.tar-3"
    for name in (files.numbered(12), files.rolling(12)):
        assert files.epoch_of(name) == 12
    for name in (files.BEST, "model.pth.tar-", "model.pth.tar-1x", "xmodel.pth.tar-1", "modelxpth.tar-1", "model-1"):
        assert files.epoch_of(name) is None


def test_saved_epochs_are_the_numbered_ones_in_order(tmp_path):
    names = (files.numbered(10), files.numbered(9), files.rolling(11), files.BEST, files.LAST, "model.pth.tar-old")
    for name in names:
        (tmp_path / name).touch()
    assert files.saved_epochs(tmp_path) == [9, 10]
    assert files.saved_epochs(tmp_path / "absent") == files.saved_epochs(tmp_path / files.BEST) == []
