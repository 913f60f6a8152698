"""Accuracy and its relatives."""

import os
from collections import OrderedDict

import torch
from yacs.config import CfgNode

from ..errors import NotFinite, WrongValue
from ..utils.tools import atomic_write


class EvaluatorBase:
    """What a trainer calls: `reset`, `process` once a batch, `evaluate`.

    Args:
        cfg: the whole config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forget all batches."""
        raise TypeError(f"{type(self).__name__} must define reset()")

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take one batch: model output and ground truth."""
        raise TypeError(f"{type(self).__name__} must define process()")

    def evaluate(self) -> OrderedDict:
        """Print and return the metrics, the main one first."""
        raise TypeError(f"{type(self).__name__} must define evaluate()")


class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1 in percent; per class and as a confusion matrix if the config asks for it.

    Those need TEST.PER_CLASS_RESULT and TEST.COMPUTE_CMAT. The matrix goes to OUTPUT_DIR/cmat.pt as a float64
    tensor [true class, predicted class] whose rows sum to 1 (0 for a class without images); Dassl pickles an array.

    Args:
        cfg: the whole config.
        lab2cname: label -> class name, for the per-class lines.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: object) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._predicted: list[torch.Tensor] = []
        self._true: list[torch.Tensor] = []
        self._largest: list[torch.Tensor] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take logits [batch, classes] and labels [batch]; the prediction is the largest logit."""
        self._predicted.append(mo.argmax(dim=1))  # (where it is: no batch waits for a GPU)
        self._true.append(gt)
        self._largest.append(mo.detach().amax(dim=1))

    def evaluate(self) -> OrderedDict:
        """Print the result and return `accuracy`, `error_rate`, `macro_f1` (and `perclass_accuracy`), in percent.

        macro_f1 is the mean over the classes that occur in the ground truth, as in Dassl.

        Raises:
            WrongValue: (a ValueError) if no batch was processed.
            NotFinite: if the largest logit of an image is infinite or NaN: its prediction would mean nothing.
        """
        if not self._true:
            raise WrongValue("Nothing was evaluated: the split gave no batch")
        self._check_finite()
        true, predicted = torch.cat(self._true).cpu(), torch.cat(self._predicted).cpu()
        size = int(max(true.max(), predicted.max(), *self._lab2cname, 0)) + 1
        counts = torch.bincount(true * size + predicted, minlength=size * size).view(size, size).double()
        hits, true_counts, predicted_counts = counts.diagonal(), counts.sum(1), counts.sum(0)
        present = true_counts > 0
        total, correct = len(true), int(hits.sum())
        accuracy = 100.0 * correct / total
        # F1 = 2 TP / (2 TP + FP + FN), and the denominator counts every true and every predicted image of the class.
        f1 = 100.0 * (2 * hits / (true_counts + predicted_counts))[present].mean().item()
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=f1)
        print(
            f"=> result\n* total: {total:,}\n* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n* error: {results['error_rate']:.1f}%\n* macro_f1: {f1:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(hits, true_counts)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_matrix(counts / true_counts.clamp(min=1)[:, None])
        return results

    def _check_finite(self) -> None:
        largest = torch.cat(self._largest)
        bad = int((~torch.isfinite(largest)).sum())
        if bad:
            raise NotFinite(
                f"The logits of {bad:,} of {len(largest):,} images are infinite or NaN, so there is no accuracy: the "
                "model holds such numbers (train it anew with a lower OPTIM.LR), or they are too large for its PREC "
                "(take fp32)"
            )

    def _per_class(self, hits: torch.Tensor, totals: torch.Tensor) -> float:
        print("=> per-class result")
        accuracies = []
        for label in totals.nonzero().flatten().tolist():
            correct, total = int(hits[label]), int(totals[label])
            accuracies.append(100.0 * correct / total)
            name = self._lab2cname.get(label, "?")
            print(f"* class: {label} ({name})\ttotal: {total:,}\tcorrect: {correct:,}\tacc: {accuracies[-1]:.1f}%")
        mean = sum(accuracies) / len(accuracies)
        print(f"* average: {mean:.1f}%")
        return mean

    def _save_matrix(self, matrix: torch.Tensor) -> None:
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        with atomic_write(path) as temporary:
            torch.save(matrix, temporary)
        print(f"Confusion matrix is saved to {path}")
