import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.ssl.tokens import gather_tokens, pool


def test_pool_averages_the_valid_and_gives_zero_where_there_is_none() -> None:
    x = torch.tensor([[[1.0], [3.0], [50.0]], [[7.0], [7.0], [7.0]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(x, valid).tolist() == [[2.0], [0.0]]


@given(tokens=st.integers(1, 12), batch=st.integers(1, 4), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_gathered_tokens_know_where_they_came_from(tokens: int, batch: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(batch, tokens, generator=generator) < share
    chosen[0, seed % tokens] = True
    index = torch.arange(batch * tokens).reshape(batch, tokens, 1).float()
    x, seen, place = gather_tokens(index, chosen)
    assert x.shape[1] == int(chosen.sum(1).max())
    for row in range(batch):
        assert x[row][seen[row]].flatten().tolist() == index[row][chosen[row]].flatten().tolist()
        assert place[row][seen[row]].tolist() == chosen[row].nonzero().flatten().tolist()
        assert len(set(place[row].tolist())) == len(place[row])  # filled up with places of its own
    back = torch.full_like(index, -1).scatter(1, place[..., None], x)
    assert torch.equal(back[chosen], index[chosen])
