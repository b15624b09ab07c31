// gemm_local.cl
