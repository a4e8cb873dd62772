import pytest
import torch

from rl_rerank.training.shared_prefix import token_log_probs as module
from rl_rerank.training.shared_prefix.token_log_probs import token_log_probs

ROWS, VOCABULARY = 7, 50


def given(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, VOCABULARY, generator=generator)).to(dtype).requires_grad_()
    tokens = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return logits, tokens, torch.randn(ROWS, generator=generator)


@pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY, 2**22])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_values_and_gradients_equal_those_of_log_softmax(monkeypatch, chunk, temperature, dtype, apart):
    monkeypatch.setattr(module, "CHUNK", chunk)
    logits, tokens, weights = given(dtype)
    found, entropy = token_log_probs(logits, tokens, temperature=temperature, with_entropy=True)
    (found * weights).sum().backward()

    plain = logits.detach().clone().requires_grad_()
    all_of_them = (plain.float() / temperature).log_softmax(1)
    expected = all_of_them.gather(1, tokens[:, None]).squeeze(1)
    (expected * weights).sum().backward()

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, -(all_of_them.exp() * all_of_them).sum(1).detach(), atol=1e-5, rtol=0)
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad, plain.grad, atol=apart, rtol=0)


def test_a_second_backward_finds_the_logits_as_they_were():
    logits, tokens, weights = given(torch.float32)
    found, entropy = token_log_probs(logits, tokens)
    loss = (found * weights).sum()
    [first] = torch.autograd.grad(loss, logits, retain_graph=True)
    [second] = torch.autograd.grad(loss, logits)
    assert entropy is None
    assert torch.equal(first, second)


def test_the_entropy_carries_no_gradient():
    logits, tokens, _ = given(torch.float32)
    found, entropy = token_log_probs(logits, tokens, with_entropy=True)
    assert found.requires_grad
    assert not entropy.requires_grad
