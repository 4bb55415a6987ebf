"""Measures models beside their plain ViT: speed, multiply-adds, memory. Importing it alone imports nothing heavy."""
