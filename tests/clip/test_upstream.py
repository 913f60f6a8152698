"""open_clip and torchvision without timm and torch's compiler: a prediction needs neither; both come when used."""

import subprocess
import sys

HEAVY = "('timm', 'torch._dynamo', 'scipy', 'matplotlib')"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_prediction_imports_neither():
    code = f"""
import sys, torch
from mocoop import Classifier
clf = Classifier("ZeroshotCLIP", backbone="demo", device="cpu").fit(names=["cat", "dog"])
clf.predict([torch.zeros(3, 48, 48)])
print([name for name in {HEAVY} if name in sys.modules])"""
    assert run(code) == "[]"


def test_what_stands_in_is_the_real_thing_once_it_is_called():
    code = """
import sys, torch
from mocoop.clip.upstream import CLIP, CLIPTextCfg, CLIPVisionCfg
torch.manual_seed(0)
vision = CLIPVisionCfg(timm_model_name="resnet18", timm_proj="mlp", image_size=64)
tower = CLIP(8, vision, CLIPTextCfg(width=32, heads=2, layers=1)).eval().visual
import timm, torchvision
assert type(tower.trunk) is timm.models.ResNet and type(tower.head.mlp) is timm.layers.Mlp
boxes = torch.tensor([[0, 0, 0, 4.0, 4.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).tolist() == [[[[1, 1], [1, 1]]]]
assert torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu") is __import__("torch._dynamo.utils").\
_dynamo.utils.is_compile_supported("cpu")
print(tower(torch.zeros(2, 3, 64, 64)).shape)"""
    assert run(code) == "torch.Size([2, 8])"


def test_what_is_imported_already_stays():
    code = """
import timm
from mocoop.clip import upstream
import sys, open_clip.timm_model
print(open_clip.timm_model.timm is timm, sys.modules["timm"] is timm)"""
    assert run(code) == "True True"
