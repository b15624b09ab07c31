// attention_local.cl
