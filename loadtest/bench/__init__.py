"""Measurements of single layers."""
