() => {
  const keys = {
    c: "verdict-causal", s: "verdict-spurious", u: "verdict-unclear", b: "verdict-broken",
    z: "undo", arrowleft: "previous", arrowright: "next",
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable=true], [role=tab]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = document.getElementById(keys[event.key.toLowerCase()]);
    // Hidden where another tab is open.
    if (!button || button.offsetParent === null || button.disabled) return;
    event.preventDefault();
    button.click();
  });
}
