"""open_clip and torchvision without timm and torch's compiler: a prediction needs neither; both come when used."""

import os
import subprocess
import sys

HEAVY = "('timm', 'torch._dynamo', 'huggingface_hub', 'scipy', 'matplotlib')"


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


def test_the_hub_and_the_tokenizer_work_once_they_are_used():
    code = """
import sys
from mocoop.clip import upstream
import open_clip
assert "ftfy" not in sys.modules and "huggingface_hub" not in sys.modules
broken, right = open_clip.get_tokenizer("ViT-B-32")(["Ã¼ber", "über"]).tolist()
print(broken == right, "ftfy" in sys.modules)
import huggingface_hub, open_clip.push_to_hf_hub as push
assert push.create_repo is huggingface_hub.create_repo and open_clip.pretrained._has_hf_hub
try:
    open_clip.pretrained.download_pretrained_from_hf("nobody/nothing", cache_dir="no")
except Exception as error:
    print("huggingface_hub" in type(error).__module__ or "nobody/nothing" in str(error))"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["True True", "True"]


def test_what_is_imported_already_stays():
    code = """
import timm
from mocoop.clip import upstream
import sys, open_clip.timm_model
print(open_clip.timm_model.timm is timm, sys.modules["timm"] is timm)"""
    assert run(code) == "True True"
