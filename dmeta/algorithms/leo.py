"""LEO: adapt a low-dimensional code of each class, from which a classifier is decoded.

Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero & Hadsell 2019, "Meta-Learning with Latent
Embedding Optimization" (arXiv:1807.05960), section 2.3 and algorithm 1. Of features x [D] of length
1, for each class n, which has K_n of the S support examples, the encoder e, the relation network r
and the decoder d give

    mu_n, sigma_n = 1/(K_n S) sum_{i in class n} sum_j r(e(x_i), e(x_j))
    z_n ~ N(mu_n, diag(sigma_n^2)),   w_n ~ N(mu^d(z_n), diag(sigma^d(z_n)^2)),   logit_n = w_n . x

and two inner loops run, one after the other, on L_support, the cross-entropy of these logits:

    z <- z - alpha * dL_support(w(z))/dz     latent_steps times from z, alpha [L] is learned
    w <- w - delta * dL_support(w)/dw        finetuning_steps times from w(z'), delta [D] is learned

    meta-loss = L_query(w') + beta KL(N(mu, sigma^2) || N(0, 1)) + gamma |stopgrad(z') - z|^2
                + lambda_1 (|e|^2 + |r|^2 + |d|^2) / 2 + lambda_2 |C_d - I|^2

where C_d has the cosines between the decoder's rows. At evaluation nothing is sampled or dropped:
z = mu, w = mu^d(z). The paper's features are fixed (``task=features``); of images, the network in
front is learned by the outer loop.

Differs from the paper: L_support is the mean over a class's examples, summed over the classes,
where the paper sums over all examples; with several shots the rates then mean what they do in the
authors' code (github.com/deepmind/leo). Differs from that code: one code per class, not one sample
of it for each of its examples; sigma = softplus(s), scaled to be 1 for codes and sqrt(2 / (D + W))
for weights at s = 0, where there exp(s) - 1 + offset, cut off at 1e-10, grows out of bounds when
the inner loop moves z far; the KL in closed form, not from the sample. As there and not in the
paper: KL, |.|^2 of codes and of C_d - I are means over their elements, the classifier's inputs are
dropped out like the encoder's, those of the queries too, and in the preset each tensor's
meta-gradient is clipped by its own norm (``outer.clip_norm_over=tensor``).

Letters: S support examples, N examples to predict, W ways, D features, L latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms import embeddings, latent_codes
from dmeta.algorithms.embeddings import some_weight
from dmeta.algorithms.latent_codes import Gaussian
from dmeta.bilevel.chain import Chain
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.transforms.rate import RATE, Rate
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields
from dmeta.randomness import Noise

CODES, WEIGHTS = "codes", "weights"

_RATE = Rate(learn_inner_lr="per_element")
_SMALLEST = 1e-6  # squared length below which features stay short: none is divided by 0


@dataclass(frozen=True)
class Leo:
    """A linear classifier on features, adapted through its latent code and then directly.

    Attributes:
        network: [N, *input_shape] -> features, flattened to [N, D] and brought to length 1; may be
            without parameters.
        loss: support and query loss.
        input_shape: of one example.
        num_latents: L, dimensions of a class's code.
        latent_lr: initial inner rate of the codes; one per dimension is learned.
        latent_steps: inner steps on the codes.
        finetuning_lr: initial inner rate of the classifier's weights; one per feature is learned.
        finetuning_steps: inner steps on the weights, after those on the codes.
        dropout: probability that a feature is dropped, in training.
        kl_weight: beta, weight of the codes' divergence from N(0, 1).
        encoder_weight: gamma, weight of the distance between a code before and after its inner
            loop.
        l2_weight: lambda_1, weight of half the squared weights of encoder, relation network and
            decoder.
        orthogonality_weight: lambda_2, weight of the squared cosines between the decoder's rows.
        init_seed: of the initial encoder, relation network and decoder.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_latents: PositiveInt = 64
    latent_lr: PositiveFloat = 1.0
    latent_steps: NonNegativeInt = 5
    finetuning_lr: PositiveFloat = 0.001
    finetuning_steps: NonNegativeInt = 5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    kl_weight: NonNegativeFloat = 1e-3
    encoder_weight: NonNegativeFloat = 1e-9
    l2_weight: NonNegativeFloat = 1e-8
    orthogonality_weight: NonNegativeFloat = 1e-3
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's weights, the three parts (`latent_codes.PARTS`) and the rates [L], [D]."""
        weights = self.network.init_params()
        like = some_weight(weights)
        num_features = embeddings.num_features(self.network, self.input_shape)
        return {
            **weights,
            **latent_codes.init_parts(num_features, self.num_latents, self.init_seed, like),
            RATE + CODES: like.new_full((self.num_latents,), self.latent_lr),
            RATE + WEIGHTS: like.new_full((num_features,), self.finetuning_lr),
        }

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """``codes`` [W, L] and ``weights`` [W, D] in addition to the ``network``'s own.

        With `Stage.inner_steps` so many steps are taken in all, the latent ones first.
        """
        noise = Noise(torch.as_tensor(stage.task_seed) if stage.training else None)
        kept: dict[str, Any] = {"network": {n: meta_params[n] for n in self.network.names}}
        if stage.training:
            kept["seed"] = noise.seed
        features = self._features(kept, support.x)
        encoded = noise.dropout(features, self.dropout, "encoder")
        code = latent_codes.encode(meta_params, encoded, support.y, stage.ways)
        start = noise.sample(code.mean, code.std, CODES)

        def decoded(codes: Tensor, step: int) -> Tensor:
            of_class = latent_codes.decode(meta_params, codes)
            return noise.sample(of_class.mean, of_class.std, f"{WEIGHTS} {step}")

        def support_loss(weights: Tensor, name: str) -> Tensor:
            logits = noise.dropout(features, self.dropout, name) @ weights.T
            return stage.ways * self.loss(logits, support.y)

        latent_steps, finetuning_steps = self._steps(stage)
        coded: Any = solve(
            InnerProblem(
                objective=lambda w, i: support_loss(decoded(w[CODES], i), f"latent step {i}"),
                start={CODES: start},
                optimizer=Chain((_RATE,), meta_params),
                num_steps=latent_steps,
                finish=lambda w, i: {**kept, **w, WEIGHTS: decoded(w[CODES], i)},
                depends_on_meta=True,
            )
        )
        tuned = solve(
            InnerProblem(
                objective=lambda w, i: support_loss(w[WEIGHTS], f"finetuning step {i}"),
                start={WEIGHTS: coded[WEIGHTS]},
                optimizer=Chain((_RATE,), meta_params),
                num_steps=finetuning_steps,
                finish=lambda w, _: {**coded, **w},
                depends_on_meta=True,
            )
        )
        if not stage.training:
            return tuned
        return Outcome((tuned,), (1.0,), self._penalty(meta_params, code, start, coded[CODES]))

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        features = self._features(adapted, x)
        dropped = Noise(adapted.get("seed")).dropout(features, self.dropout, "query")
        logits: Tensor = dropped @ adapted[WEIGHTS].T
        return logits

    def _features(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        features = self.network.apply(adapted["network"], x).flatten(1)
        squares = features.square().sum(1, keepdim=True)
        return features * torch.rsqrt(squares + _SMALLEST)

    def _steps(self, stage: Stage) -> tuple[int, int]:
        if stage.inner_steps is None:
            return self.latent_steps, self.finetuning_steps
        latent_steps = min(stage.inner_steps, self.latent_steps)
        return latent_steps, stage.inner_steps - latent_steps

    def _penalty(self, meta_params: Params, code: Gaussian, start: Tensor, end: Tensor) -> Tensor:
        return (
            self.kl_weight * latent_codes.divergence(code)
            + self.encoder_weight * (end.detach() - start).square().mean()
            + self.l2_weight * latent_codes.half_squares(meta_params)
            + self.orthogonality_weight * latent_codes.decoder_correlation(meta_params)
        )
