"""The methods by the name that a conf calls them."""

from methods.johnson import Johnson

METHODS = {"johnson": Johnson}
