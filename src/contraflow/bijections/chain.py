"""Compositions and inverses of bijections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection


class Chain(Bijection):
    r"""The composition f = f_n ∘ … ∘ f_1, whose log-determinant is the sum of theirs.

    Args:
        bijections: f_1 … f_n, starting with the one nearest to the data; an empty chain is the identity.
    """

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)
        self.in_float64 = len(self) > 0 and all(bijection.in_float64 for bijection in self)

    def __iter__(self) -> Iterator[Bijection]:
        return iter(self.bijections)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.bijections)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for bijection in self:
            x, logdet = bijection.forward_and_logdet(x, context, generator=generator)
            total = total + logdet
        return x, total

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[0])
        for bijection in reversed(list(self)):
            z, logdet = bijection.inverse_and_logdet(z, context, generator=generator)
            total = total + logdet
        return z, total

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        for bijection in self:
            x = bijection(x, context, generator=generator)
        return x

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        for bijection in reversed(list(self)):
            z = bijection.inverse(z, context, generator=generator)
        return z


class Inverse(Bijection):
    """f⁻¹ as a bijection, which maps in the opposite direction of f.

    Args:
        bijection: f.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse_and_logdet(x, context, generator=generator)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.bijection.forward_and_logdet(z, context, generator=generator)

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self.bijection.inverse(x, context, generator=generator)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self.bijection(z, context, generator=generator)

    def inverse_lipschitz_bound(self) -> float:
        return self.bijection.forward_lipschitz_bound()

    def forward_lipschitz_bound(self) -> float:
        return self.bijection.inverse_lipschitz_bound()
