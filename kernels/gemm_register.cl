// gemm_register.cl
