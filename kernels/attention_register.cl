// attention_register.cl
