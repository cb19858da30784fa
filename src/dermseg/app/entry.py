"""What Streamlit runs for each visitor and after each of their actions."""

import sys

from dermseg.app.launch import Settings
from dermseg.app.page import show

show(Settings.from_json(sys.argv[1]))
