"""What the pages share: the person's choices, cached core calls, running jobs, views. The only other room that knows streamlit."""
