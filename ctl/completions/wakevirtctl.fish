# Completion of wakevirtctl(1) in fish. The program itself finds the candidates.
COMPLETE=fish wakevirtctl 2>/dev/null | source
