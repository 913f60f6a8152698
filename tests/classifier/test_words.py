import pytest
import torch
from mocoop import methods
from mocoop.classifier.words import nearest_words, pattern, prompt_words, whole_words, why_no_words
from mocoop.clip import Tokenizer
from mocoop.toolbox.dassl.errors import WrongValue
from mocoop.trainers.coop import CoOpModel
from mocoop.trainers.mocoop import MoCoOpModel
from mocoop.trainers.zsclip import ZeroshotModel

NAMES = ["dog", "fire truck"]


def token(word):
    return Tokenizer().encode(word)[0]


def test_distances_by_hand():
    embedding = torch.zeros(49408, 2)
    embedding[token("dog")] = torch.tensor([3.0, 4.0])
    embedding[token("cat")] = torch.tensor([3.0, 0.0])
    embedding[token("!")] = torch.tensor([3.0, 1.0])  # no word
    piece = Tokenizer().encode("firetruckish")[0]  # a token within a word
    embedding[piece] = torch.tensor([3.0, 1.0])
    (found,) = nearest_words(torch.tensor([[3.0, 1.0]]), embedding, 5)
    assert [(near.word, near.distance) for near in found] == [("cat", 1.0), ("dog", 3.0)]  # rows of zeros: never read
    with pytest.raises(WrongValue, match="at least 1"):
        nearest_words(torch.zeros(1, 2), embedding, 0)


def test_many_vectors_are_what_one_by_one_gives(tiny_backbone):
    embedding = tiny_backbone.text.token_embedding.weight
    torch.manual_seed(1)
    vectors = torch.randn(300, embedding.shape[1])  # more than are compared at once
    words, found = whole_words(), nearest_words(vectors, embedding, 3)
    for i in (0, 255, 256, 299):
        distances = {word: (embedding[t] - vectors[i]).square().sum().sqrt().item() for t, word in list(words.items())}
        assert found[i][0].distance == pytest.approx(min(distances.values()), rel=1e-5)
        assert [n.distance for n in found[i]] == sorted(n.distance for n in found[i])


def test_untrained_vectors_are_their_own_words(tiny_backbone):
    groups = [["a photo of a {}."], ["a {} in a video game."]]
    model = MoCoOpModel(tiny_backbone, NAMES, groups=groups)
    first, second = prompt_words(model, NAMES, 2)
    assert [words[0].word for words in first.vectors] == ["a", "photo", "of", "a"]
    assert [words[0].word for words in second.vectors] == ["a", "in", "a", "video", "game"]
    assert all(words[0].distance < 1e-6 and words[1].distance > 0.1 for words in first.vectors)
    assert (first.name, first.pattern, first.label) == ("a photo of a {}.", "[1] [2] [3] [4] CLASS.", None)
    assert second.pattern == "[1] CLASS [2] [3] [4] [5]."
    assert str(first).splitlines()[1].startswith("  [1] a 0.000, ")


def test_vectors_of_each_class_are_named_by_class(tiny_backbone):
    model = CoOpModel(tiny_backbone, NAMES, n_ctx=3, class_specific=True)
    found = prompt_words(model, ["d", "t"], 1)
    assert [(p.label, len(p.vectors)) for p in found] == [("d", 3), ("t", 3)]
    alone = nearest_words(model.ctx[1], model.encoder.token_embedding.weight, 1)
    assert found[1].vectors == alone


@pytest.mark.parametrize(("position", "expected"), [("end", "[1] [2] CLASS."), ("front", "CLASS [1] [2].")])
def test_patterns_show_where_the_name_stands(tiny_backbone, position, expected):
    model = CoOpModel(tiny_backbone, ["fire truck"], n_ctx=2, position=position)
    assert pattern(model.sequences(model.names)[0][0]) == expected


def test_a_method_without_vectors_says_so(tiny_backbone):
    model = ZeroshotModel(tiny_backbone, NAMES, ["a photo of a {}."])
    assert why_no_words(model).startswith("ZeroshotCLIP has no context vectors")
    with pytest.raises(WrongValue, match="hand-written"):
        prompt_words(model, NAMES)


@pytest.mark.parametrize("row", [row for row in methods.OURS if row.trained], ids=lambda row: row.name)
def test_every_trained_method_has_words(row, fitted):
    found = fitted(row.name).words(2)
    assert found and all(len(near) == 2 for prompt in found for near in prompt.vectors)
    assert [prompt.pattern.count("[") for prompt in found] == [len(prompt.vectors) for prompt in found]
