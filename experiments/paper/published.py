"""The published figures that the experiments are compared with, as printed; an empty cell is "–".

Chen, Behrmann, Duvenaud, Jacobsen 2019 (arXiv:1906.02735), Tables 1 to 5; and the table of likelihoods of a lecture on
normalizing flows (HSE LAMBDA, 2021).
"""

from __future__ import annotations

from experiments.paper.experiment import Table

PAPER = "Chen, Behrmann, Duvenaud, Jacobsen, *Residual Flows for Invertible Generative Modeling*, NeurIPS 2019"

TABLE_1 = Table(
    ("model", "MNIST", "CIFAR-10", "ImageNet 32", "ImageNet 64", "CelebA-HQ 256"),
    (
        ("Real NVP", "1.06", "3.49", "4.28", "3.98", "–"),
        ("Glow", "1.05", "3.35", "4.09", "3.81", "1.03"),
        ("FFJORD", "0.99", "3.40", "–", "–", "–"),
        ("Flow++", "–", "3.29 (3.09)", "– (3.86)", "– (3.69)", "–"),
        ("i-ResNet", "1.05", "3.45", "–", "–", "–"),
        ("Residual Flow", "0.970", "3.280", "4.010", "3.757", "0.992"),
    ),
    "Published bits/dim; in brackets with variational dequantisation, which the paper does not compare with.",
)

TABLE_2 = Table(
    ("model", "FID"),
    (
        ("PixelCNN", "65.93"),
        ("PixelIQN", "49.46"),
        ("i-ResNet", "65.01"),
        ("Glow", "46.90"),
        ("Residual Flow", "46.37"),
        ("DCGAN", "37.11"),
        ("WGAN-GP", "36.40"),
    ),
    "Published FID on CIFAR-10. Glow is an official model of twice the layers; PixelCNN, PixelIQN, DCGAN and WGAN-GP "
    "are quoted from Ostrovski et al. 2018.",
)

TABLE_3 = Table(
    ("setting", "MNIST", "CIFAR-10†", "CIFAR-10"),
    (
        ("i-ResNet + ELU", "1.05", "3.45", "3.66 to 4.78"),
        ("Residual Flow + ELU", "1.00", "3.40", "3.32"),
        ("Residual Flow + LipSwish", "0.97", "3.39", "3.28"),
    ),
    "Published bits/dim; † with a squeeze before the first residual block. 3.66 to 4.78 is the range of an "
    "oscillation.",
)

_HYBRID = (
    "blocks",
    "λ = 0: accuracy",
    *(f"λ = {w}: {what}" for w in ("1/D", "1") for what in ("bits/dim", "accuracy")),
)

TABLE_4_MNIST = Table(
    _HYBRID,
    (
        ("Nalisnick et al. 2019", "99.33", "1.26", "97.78", "–", "–"),
        ("coupling", "99.50", "1.18", "98.45", "1.04", "95.42"),
        ("coupling + 1×1 convolution", "99.56", "1.15", "98.93", "1.03", "94.22"),
        ("residual", "99.53", "1.01", "99.46", "0.99", "98.69"),
    ),
    "Published figures on MNIST; accuracies in per cent.",
)

TABLE_4_SVHN = Table(
    _HYBRID,
    (
        ("Nalisnick et al. 2019", "95.74", "2.40", "94.77", "–", "–"),
        ("coupling", "96.27", "2.73", "95.15", "2.21", "46.22"),
        ("coupling + 1×1 convolution", "96.72", "2.61", "95.49", "2.17", "46.58"),
        ("residual", "96.72", "2.29", "95.79", "2.06", "58.52"),
    ),
    "Published figures on SVHN; accuracies in per cent.",
)

TABLE_5 = Table(
    _HYBRID,
    (
        ("coupling", "89.77", "4.30", "87.58", "3.54", "67.62"),
        ("coupling + 1×1 convolution", "90.82", "4.09", "87.96", "3.47", "67.38"),
        ("residual", "91.78", "3.62", "90.47", "3.39", "70.32"),
    ),
    "Published figures on CIFAR-10; accuracies in per cent.",
)

LECTURE = Table(
    ("model", "POWER", "GAS", "HEPMASS", "MINIBOONE", "BSDS300", "MNIST", "CIFAR-10"),
    (
        ("Real NVP", "-0.17", "-8.33", "18.71", "13.55", "-153.28", "1.06", "3.49"),
        ("Glow", "-0.17", "-8.15", "18.92", "11.35", "-155.07", "1.05", "3.35"),
        ("FFJORD", "-0.46", "-8.59", "15.26", "10.43", "-157.67", "0.99", "3.40"),
        ("MADE", "3.08", "-3.56", "20.98", "15.59", "-148.85", "2.04", "5.67"),
        ("MAF", "-0.24", "-10.08", "17.70", "11.75", "-155.69", "1.89", "4.31"),
        ("TAN", "-0.48", "-11.19", "15.12", "11.01", "-157.03", "–", "–"),
        ("DDSF", "-0.62", "-11.96", "15.09", "8.86", "-157.73", "–", "–"),
    ),
    "Published negative log-likelihood in nats; bits/dim for images.",
)
