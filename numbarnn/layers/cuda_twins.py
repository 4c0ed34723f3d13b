"""Which pass on a GPU stands for which one of the CPU."""

from numbarnn.layers import cuda_recurrent, cuda_stateless, dense, dropout, embedding, pooling, recurrent_pass
from numbarnn.layers.cuda_passes import CudaPass
from numbarnn.layers.passes import Pass

TWINS: dict[type[Pass], type[CudaPass]] = {
    recurrent_pass.RecurrentPass: cuda_recurrent.RecurrentCuda,
    dense.DensePass: cuda_stateless.DenseCuda,
    embedding.EmbeddingPass: cuda_stateless.EmbeddingCuda,
    dropout.DropoutPass: cuda_stateless.DropoutCuda,
    pooling.MeanPass: cuda_stateless.MeanCuda,
    pooling.MaxPass: cuda_stateless.MaxCuda,
}
