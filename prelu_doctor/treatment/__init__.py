"""Surgery (ReLU to PReLU), revival of dead units, and the fine-tune."""
