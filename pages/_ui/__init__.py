"""What the pages share: choices, cached core calls, running jobs, views. Only here and in pages/ is streamlit known."""
