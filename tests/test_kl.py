"""KL estimators on an asymmetric categorical distribution, where every expectation is a finite sum.

The distributions are lopsided on purpose: on symmetric ones KL(new || ref) = KL(ref || new), and a sign that
is the wrong way round would pass.
"""

import math

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.objectives import KL_ESTIMATORS, kl_estimate, policy_loss

F64 = torch.float64
LOGITS = torch.tensor([1.7, 0.2, -0.9, -2.3], dtype=F64)
REFERENCE = torch.tensor([-0.8, 0.9, 0.4, -0.1], dtype=F64).log_softmax(0)


def policy():
    logits = LOGITS.clone().requires_grad_()
    return logits, logits.log_softmax(0)


def reverse_kl(logp):  # KL(new || ref)
    return (logp.exp() * (logp - REFERENCE)).sum()


def forward_kl(logp):  # KL(ref || new)
    return (REFERENCE.exp() * (REFERENCE - logp)).sum()


def gradient_of(divergence):
    logits, logp = policy()
    return torch.autograd.grad(divergence(logp), logits)[0]


def mean_value(estimate):
    """E over x ~ pi_new of the estimate, by enumeration."""
    _, logp = policy()
    return (logp.exp() * estimate(logp[None], REFERENCE[None])[0]).sum().item()


def mean_gradient(estimate):
    """E over x ~ pi_new of d estimate(x) / d logits: what a loss does, which leaves the sampling alone."""
    logits, logp = policy()
    return torch.autograd.grad(
        (logp.exp().detach() * estimate(logp[None], REFERENCE[None])[0]).sum(), logits
    )[0]


def estimator(name):
    return lambda new, ref: kl_estimate(new, ref, name)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=1e-14)


WANTED_GRADIENT = {"k1": lambda logp: 0.0 * logp.sum(), "k2": reverse_kl, "k3": forward_kl}


def test_the_two_directions_differ_here():
    _, logp = policy()
    assert abs(reverse_kl(logp) - forward_kl(logp)) > 0.1
    assert (gradient_of(reverse_kl) - gradient_of(forward_kl)).norm() > 0.1


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_estimate_the_reverse_kl(name):
    _, logp = policy()
    assert mean_value(estimator(name)) == pytest.approx(reverse_kl(logp).item(), rel=1e-13)


def test_k2_is_biased_but_close_to_second_order():
    _, logp = policy()
    assert abs(mean_value(estimator("k2")) - reverse_kl(logp).item()) > 0.1
    near = (REFERENCE + 1e-3 * torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=F64)).log_softmax(0)
    true = (near.exp() * (near - REFERENCE)).sum().item()
    got = (near.exp() * kl_estimate(near, REFERENCE, "k2")).sum().item()
    assert got == pytest.approx(true, rel=2e-3)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_the_mean_gradient_in_a_loss(name):
    """k1: nothing. k2: the reverse KL's gradient. k3: the forward KL's."""
    assert close(mean_gradient(estimator(name)), gradient_of(WANTED_GRADIENT[name]))


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_the_checks_see_a_wrong_sign(name):
    """The mutation: with the log ratio the other way round, value or gradient must fail the checks above."""

    def mutant(new, ref):
        if name == "k1":
            return ref - new
        if name == "k2":
            return 0.5 * (ref - new) ** 2 * -1.0
        return torch.exp(new - ref) - (new - ref) - 1

    _, logp = policy()
    value_fails = abs(mean_value(mutant) - reverse_kl(logp).item()) > 0.1
    gradient_fails = not close(mean_gradient(mutant), gradient_of(WANTED_GRADIENT[name]))
    assert value_fails
    assert gradient_fails or name == "k1"  # k1's gradient is 0 with either sign: its value gives it away


@pytest.mark.filterwarnings("ignore::rlkit.objectives.ObjectiveWarning")
@pytest.mark.parametrize("name", KL_ESTIMATORS)
@pytest.mark.parametrize("corrected", [False, True])
def test_the_mean_gradient_through_the_policy_loss(name, corrected):
    """The same table through policy_loss; multiplied by rho, k1 and k3 get the reverse KL's gradient."""
    logits, logp = policy()
    # Each token x is a completion of length 1; the mean is the sum of p(x) times its own loss's gradient.
    total = torch.zeros_like(LOGITS)
    for x in range(4):
        out = policy_loss(
            logp[x].view(1, 1),
            None,
            torch.zeros(1),
            torch.ones(1, 1),
            logp_ref=REFERENCE[x].view(1, 1),
            beta=2.0,
            kl_estimator=name,
            use_bias_correction_kl=corrected,
        )
        total += logp[x].exp().item() * torch.autograd.grad(out.loss, logits, retain_graph=True)[0]
    if corrected:  # d/dtheta of sum p(x) k(x): the score term that rho supplies, and the term of a plain loss

        def objective(lp):
            return (lp.exp() * kl_estimate(lp, REFERENCE, name)).sum()

        assert close(total, 2.0 * gradient_of(objective))
        assert close(total, 2.0 * gradient_of(reverse_kl)) == (name in ("k1", "k3"))
    else:
        assert close(total, 2.0 * gradient_of(WANTED_GRADIENT[name]))


def test_values_by_hand():
    new = torch.tensor([[math.log(0.5)]], dtype=F64)
    ref = torch.tensor([[math.log(0.25)]], dtype=F64)
    assert kl_estimate(new, ref, "k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(new, ref, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(new, ref, "k3").item() == pytest.approx(0.5 + math.log(2) - 1)
    assert kl_estimate(ref, new, "k1").item() == pytest.approx(-math.log(2))
    assert kl_estimate(new, ref).item() == kl_estimate(new, ref, "k3").item()


def test_k3_is_stable_for_nearly_equal_policies():
    d = 1e-4
    new = torch.zeros(1, 1)
    ref = torch.full((1, 1), d)
    exact = math.expm1(float(ref)) - float(ref)
    assert kl_estimate(new, ref).item() == pytest.approx(exact, rel=5e-3)
    naive = (torch.exp(ref - new) - (ref - new) - 1).item()
    assert naive != pytest.approx(exact, rel=0.5)
    assert (kl_estimate(torch.linspace(-5, 0, 1000)[None], torch.full((1, 1000), -2.0)) >= 0).all()


def test_the_reference_is_detached():
    new = torch.zeros(1, 1, requires_grad=True)
    ref = torch.ones(1, 1, requires_grad=True)
    for name in KL_ESTIMATORS:
        kl_estimate(new, ref, name).sum().backward()
    assert ref.grad is None and new.grad is not None


def test_refusals():
    with pytest.raises(ConfigError, match="kl_estimator 'k5'"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k5")
    with pytest.raises(ConfigError, match="logp_ref"):
        kl_estimate(torch.zeros(1, 2), torch.zeros(2, 1))
